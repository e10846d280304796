"""Likeness over time of a file, ours (a static video has none) and by VBench's formulas (for comparison)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metrics.encoders import FrameEncoder, load_encoder
from metrics.functional import consistency as formulas
from metrics.functional import vbench
from metrics.functional.flow import optical_flow
from metrics.functional.temporal import grey_frames
from metrics.measures import Curve, Flow, Measure, Missing, Value, Video
from metrics.raft import RaftFlow
from metrics.registry import FAMILIES, STATIC

FEWEST = 3


class ConsistencyMeasure(Measure):
    """Drift, likeness, smoothness and warping error; only ``dynamic_degree`` has a value for a static video."""

    infos = FAMILIES["consistency"]
    rate_matters = True

    def __init__(
        self, encoder: FrameEncoder, flow: Flow = optical_flow, flow_name: str = "", device: str = "cpu"
    ) -> None:
        self.encoder, self.flow, self.device = encoder.to(device), flow, device
        self.provenance = f"{encoder.provenance}|{flow_name or 'flow:lucas-kanade'}"

    @torch.no_grad()
    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the values of the family."""
        count = video.num_frames()
        if count < FEWEST:
            return dict.fromkeys(
                (i.name for i in self.infos), Missing(f"needs {FEWEST} frames, there are {count}")
            )
        found: dict[str, Value] = {"dynamic_degree": self._dynamic_degree(video)}
        if video.is_static():
            missing = (info.name for info in self.infos if info.name not in found)
            return found | dict.fromkeys(missing, Missing(STATIC))
        embeddings = torch.cat([self.encoder(part.to(self.device)) for part in video.parts()])
        frames = torch.cat([formulas.thumbnails(part) for part in video.parts()]).to(self.device)
        background = torch.cat(
            [self.encoder(part) for part in formulas.still_parts(frames, self.flow).split(16)]
        )
        return found | {
            "identity_drift": _drift(embeddings, video.fps),
            "long_horizon": _horizon(embeddings, video.fps),
            "subject_consistency": float(formulas.frame_consistency(embeddings)),
            "background_consistency": float(formulas.frame_consistency(background)),
            "motion_smoothness": float(formulas.motion_smoothness(frames, self._rebuilt)),
            "warping_error": float(formulas.warping_error(frames, self.flow)),
        }

    def _rebuilt(self, a: Tensor, b: Tensor) -> Tensor:
        return formulas.flow_interpolator(a, b, self.flow)

    def _dynamic_degree(self, video: Video) -> Value:
        sampling = formulas.peak_sampling(video.fps)
        grey = grey_frames(part.to(self.device) for part in video.parts(sampling))
        if len(grey) < 2:
            return Missing("needs 2 frames at 8 frames per second")
        return float(formulas.peak_speed(grey, video.rate(sampling), self.flow))


class VBenchMeasure(Measure):
    """VBench's dimensions of one video by its own formulas; what needs weights that are not given is missing.

    Args:
        dino: ``dino_vitbase16_pretrain.pth``.
        clip: OpenAI's CLIP ViT-B/32 weight file, or ``openai`` to fetch it.
        raft: RAFT weights of torchvision (VBench's own are another training run; the signature says so).
        device: torch device.
    """

    infos = FAMILIES["vbench"]
    rate_matters = True

    def __init__(
        self, dino: Path | None = None, clip: str | None = None, raft: Path | None = None, device: str = "cpu"
    ) -> None:
        self.dino = load_encoder("dino", str(dino)).to(device) if dino else None
        self.clip = load_encoder("clip", f"ViT-B-32-quickgelu:{clip}").to(device) if clip else None
        self.flow = RaftFlow("raft_large", raft, iterations=20, device=device) if raft else None
        used = [model.provenance for model in (self.dino, self.clip, self.flow) if model is not None]
        self.provenance, self.device = "|".join(used), device

    @torch.no_grad()
    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the values of the family."""
        names = [info.name for info in self.infos]
        if video.num_frames() < 2:
            return dict.fromkeys(names, Missing("needs 2 frames, there is 1"))
        frames = video.clip().frames.to(self.device)
        found: dict[str, Value] = {
            "vbench_temporal_flickering": float(vbench.temporal_flickering(frames)),
            "vbench_motion_smoothness": Missing(
                "needs AMT; hand an interpolator to metrics.functional.motion_smoothness"
            ),
            "vbench_dynamic_degree": Missing("needs the weights of RAFT"),
            "vbench_subject_consistency": Missing("needs dino_vitbase16_pretrain.pth"),
            "vbench_background_consistency": Missing("needs the weights of OpenAI's CLIP ViT-B/32"),
        }
        if self.flow is not None:
            found["vbench_dynamic_degree"] = float(vbench.dynamic_degree(frames, video.fps, self.flow))
        for name, encoder in (("subject", self.dino), ("background", self.clip)):
            if encoder is not None:
                embeddings = torch.cat([encoder(part) for part in frames.split(16)])
                found[f"vbench_{name}_consistency"] = float(formulas.frame_consistency(embeddings))
        return found


def _drift(embeddings: Tensor, fps: float) -> Value:
    curve = formulas.drift_curve(embeddings)
    points = tuple((round((t + 1) / fps, 4), float(value)) for t, value in enumerate(curve))
    return Curve(float(formulas.identity_drift(embeddings)), points)


def _horizon(embeddings: Tensor, fps: float) -> Value:
    second = round(fps)
    if not 0 < second < len(embeddings):
        return Missing("the video is shorter than a second")
    curve = formulas.horizon_curve(embeddings, sorted({*formulas.LAGS, second}))
    points = tuple((lag / fps, value) for lag, value in curve.items())
    return Curve(curve[second], points)
