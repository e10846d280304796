"""Metrics of a video against its reference, as torchmetrics classes and as measures of files."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metrics.embedded import sha256_of
from metrics.encoders import FrameEncoder
from metrics.errors import WeightsError
from metrics.functional import reference as formulas
from metrics.measures import Measure, Missing, Value, Video
from metrics.per_video import PerVideoMetric
from metrics.registry import FAMILIES, STATIC

LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth (torchvision's AlexNet, IMAGENET1K_V1)"


class PairMetric(PerVideoMetric):
    """Compare each video with its reference by one function."""

    def update(self, videos: Tensor | Sequence[Tensor], references: Tensor | Sequence[Tensor]) -> None:
        """Add uint8 videos ``(B, T, C, H, W)``, or B tensors ``(T, C, H, W)``, and as many references."""
        if len(videos) != len(references):
            raise ValueError(f"expected one reference per video, got {len(videos)} and {len(references)}")
        for video, reference in zip(videos, references, strict=True):
            self.add(self.compare(video, reference))

    @abstractmethod
    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return the value of one video ``(T, C, H, W)`` against its reference."""


class PSNR(PairMetric):
    """Peak signal to noise ratio of whole videos in dB; see ``metrics.functional.psnr``."""

    higher_is_better = True

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return ``psnr`` of one video."""
        return formulas.psnr(video, reference)


class SSIM(PairMetric):
    """Structural similarity, mean over frames; see ``metrics.functional.ssim``."""

    higher_is_better = True

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return ``ssim`` of one video."""
        return formulas.ssim(video, reference)


class MultiScaleSSIM(PairMetric):
    """Multi-scale structural similarity, mean over frames; see ``metrics.functional.ms_ssim``."""

    higher_is_better = True

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return ``ms_ssim`` of one video."""
        return formulas.ms_ssim(video, reference)


class FlowError(PairMetric):
    """tOF, the distance between the motions of two videos; see ``metrics.functional.flow_error``."""

    higher_is_better = False

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return ``flow_error`` of one video."""
        return formulas.flow_error(video, reference)


class Sharpness(PerVideoMetric):
    """Variance of the Laplacian; describes. See ``metrics.functional.sharpness``."""

    higher_is_better = None

    def update(self, videos: Tensor | Sequence[Tensor]) -> None:
        """Add uint8 videos ``(B, T, C, H, W)``, or B tensors ``(T, C, H, W)``."""
        for video in videos:
            self.add(formulas.sharpness(video))


class CadenceRatio(PerVideoMetric):
    """Evenness of interpolated frames; describes, NaN where nothing moves.

    Args:
        period: frames from keyframe to keyframe, see ``metrics.functional.cadence_ratio``.
    """

    higher_is_better = None

    def __init__(self, period: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.period = period

    def update(self, videos: Tensor | Sequence[Tensor]) -> None:
        """Add uint8 videos ``(B, T, C, H, W)``, or B tensors ``(T, C, H, W)``."""
        for video in videos:
            self.add(formulas.cadence_ratio(video, self.period))


class LPIPS(PairMetric):
    """Learned perceptual distance with AlexNet; needs the weights of its backbone.

    Args:
        weights: torchvision's AlexNet weight file, see ``load_lpips``.
    """

    higher_is_better = False

    def __init__(self, weights: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = load_lpips(weights)

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return the mean distance over frames."""
        return formulas.lpips(self.network, video, reference)


class ReferenceAdherence(PerVideoMetric):
    """Mean cosine between the frames of a video and its reference image, by an image encoder.

    Args:
        encoder: maps uint8 frames to embeddings.
    """

    higher_is_better = True

    def __init__(self, encoder: FrameEncoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder

    def update(self, videos: Tensor | Sequence[Tensor], images: Tensor | Sequence[Tensor]) -> None:
        """Add uint8 videos ``(B, T, 3, H, W)`` and their reference images, B of ``(3, H', W')``."""
        if len(videos) != len(images):
            raise ValueError(f"expected one image per video, got {len(videos)} and {len(images)}")
        for video, image in zip(videos, images, strict=True):
            self.add(formulas.adherence(self.encoder(video), self.encoder(image[None])[0]))


def load_lpips(weights: Path) -> nn.Module:
    """Return the LPIPS network of torchmetrics (heads bundled there) on a given AlexNet.

    Args:
        weights: ``alexnet-owt-7be5be79.pth`` or another state dict of torchvision's AlexNet.

    Raises:
        WeightsError: the file is missing or holds something else.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    from metrics.weights_files import load_state

    network = _LPIPS(net="alex", pnet_rand=True)
    state = load_state(weights)
    own = network.net.state_dict()
    # slice2.3.weight of the network is features.3.weight of AlexNet
    wanted = {key: "features." + key.split(".", 1)[1] for key in own}
    absent = [name for name in wanted.values() if name not in state]
    if absent:
        raise WeightsError(f"{weights} holds no {absent[0]}; expected {LPIPS_WEIGHTS}")
    try:
        network.net.load_state_dict({key: state[name] for key, name in wanted.items()})
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not fit AlexNet; expected {LPIPS_WEIGHTS}") from error
    return network.eval().requires_grad_(False)


class ReferenceMeasure(Measure):
    """Values of a video against the reference video of the same file name."""

    infos = FAMILIES["reference"]

    def __init__(self, lpips_weights: Path | None = None, device: str = "cpu") -> None:
        self.network = load_lpips(lpips_weights).to(device) if lpips_weights else None
        self.device = device
        digest = sha256_of(lpips_weights)[:12] if lpips_weights else "none"
        self.provenance = f"window:gauss11-1.5-valid|flow:lucas-kanade|lpips:alex-{digest}"

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return psnr, ssim, ms_ssim, lpips and tof."""
        names = [info.name for info in self.infos]
        pair = matched(video)
        if isinstance(pair, Missing):
            return dict.fromkeys(names, pair)
        a, b = (frames.to(self.device) for frames in pair)
        found: dict[str, Value] = {}
        for name in names:
            found[name] = self._value(name, a, b)
        return found

    def _value(self, name: str, preds: Tensor, target: Tensor) -> Value:
        if name == "tof":
            if len(preds) < 2:
                return Missing("motion needs at least 2 frames")
            ratios = [x.shape[-1] / x.shape[-2] for x in (preds, target)]
            if abs(ratios[0] / ratios[1] - 1) > 0.01:
                return Missing("the reference has another aspect ratio")
            return float(formulas.flow_error(preds, target))
        if preds.shape != target.shape:
            sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (preds, target)]
            return Missing(f"the sizes differ: {sizes[0]}, reference {sizes[1]}")
        if name == "lpips":
            if self.network is None:
                return Missing(f"LPIPS needs the weights of its backbone: give the path of {LPIPS_WEIGHTS}")
            return float(formulas.lpips(self.network, preds, target))
        smallest = {"ssim": 11, "ms_ssim": formulas.MS_SSIM_SIDE}.get(name, 1)
        if min(preds.shape[-2:]) < smallest:
            return Missing(f"{name} needs sides of at least {smallest} pixels")
        value = float(PAIRS[name](preds, target))
        return Missing("the video equals its reference: no noise") if value == float("inf") else value


PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": formulas.psnr,
    "ssim": formulas.ssim,
    "ms_ssim": formulas.ms_ssim,
}


def matched(video: Video) -> tuple[Tensor, Tensor] | Missing:
    """Return the frames of a video and of its reference if they have the same timing."""
    if video.reference is None:
        return Missing("no reference video of the same file name")
    preds, target = video.clip(), video.reference.clip()
    if len(preds.frames) != len(target.frames) or abs(preds.fps / target.fps - 1) > 0.01:
        counts = f"{len(preds.frames)} frames at {preds.fps:g} against {len(target.frames)} at {target.fps:g}"
        return Missing(f"the reference has another timing ({counts} per second)")
    return preds.frames, target.frames


class StageMeasure(Measure):
    """Sharpness and evenness of a video on its own."""

    infos = FAMILIES["stage"]

    def __init__(self, period: int = 3) -> None:
        self.period = period
        self.provenance = f"period:{period}"

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return sharpness and cadence_ratio."""
        frames = video.clip().frames
        found: dict[str, Value] = {"sharpness": Missing("sharpness needs sides of at least 3 pixels")}
        if min(frames.shape[-2:]) >= 3:
            found["sharpness"] = float(formulas.sharpness(frames))
        if len(frames) <= self.period:
            found["cadence_ratio"] = Missing(f"a cadence needs at least {self.period + 1} frames")
        elif video.is_static():
            found["cadence_ratio"] = Missing(STATIC)
        else:
            found["cadence_ratio"] = float(formulas.cadence_ratio(frames, self.period))
        return found


class AdherenceMeasure(Measure):
    """Closeness to the reference image; a static video has no value, or it would be the best."""

    infos = FAMILIES["adherence"]
    sampling = "uniform:16"

    def __init__(self, encoder: FrameEncoder, device: str = "cpu") -> None:
        self.encoder, self.device = encoder.to(device), device
        self.provenance = encoder.provenance

    @torch.no_grad()
    def values(self, video: Video) -> Mapping[str, Value]:
        """Return adherence."""
        image = video.image()
        if image is None:
            return {"adherence": Missing("no reference image of the same file name")}
        if video.is_static():
            return {"adherence": Missing(STATIC)}
        frames = torch.cat([self.encoder(part.to(self.device)) for part in video.parts(self.sampling)])
        return {"adherence": float(formulas.adherence(frames, self.encoder(image[None].to(self.device))[0]))}
