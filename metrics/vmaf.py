"""VMAF through an ffmpeg with libvmaf, where there is one on the PATH; nothing else of ours needs it."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrics.errors import FfmpegError
from metrics.measures import Measure, Missing, Value, Video
from metrics.reference import PairMetric, matched
from metrics.registry import FAMILIES

MODEL = "vmaf_v0.6.1"
ABSENT = "VMAF needs an ffmpeg with libvmaf on the PATH: install one, e.g. a static build, or leave vmaf out"
# Both inputs reach the filter with the same pixels and times that every other metric sees.
GRAPH = (
    f"[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];"
    f"[a][b]libvmaf=model=version={MODEL}:log_fmt=json:log_path=vmaf.json"
)


class VMAF(PairMetric):
    """VMAF of whole videos, mean over frames; see ``vmaf``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ffmpeg_version() is None:
            raise FfmpegError(ABSENT)

    def compare(self, video: Tensor, reference: Tensor) -> Tensor:
        """Return ``vmaf`` of one video."""
        return torch.tensor(vmaf(video, reference), dtype=torch.float64)


class VmafMeasure(Measure):
    """VMAF of a file against the true video of the same name."""

    infos = FAMILIES["vmaf"]

    def __init__(self) -> None:
        self.version = ffmpeg_version()
        self.provenance = f"model:{MODEL}|pixels:yuv420p|ffmpeg:{self.version or 'none'}"

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return vmaf."""
        if self.version is None:
            return {"vmaf": Missing(ABSENT)}
        pair = matched(video)
        if isinstance(pair, Missing):
            return {"vmaf": pair}
        if pair[0].shape != pair[1].shape:
            return {"vmaf": Missing("the reference has another size")}
        return {"vmaf": vmaf(*pair)}


def vmaf(video: Tensor, reference: Tensor) -> float:
    """Return the mean over frames of VMAF (model v0.6.1) by ffmpeg's libvmaf filter.

    Args:
        video: ``(T, 3, H, W)`` uint8.
        reference: ``(T, 3, H, W)`` uint8.

    Returns:
        A value in [0, 100].

    Raises:
        ValueError: shapes that differ.
        FfmpegError: no ffmpeg with libvmaf, or it failed.
    """
    if video.ndim != 4 or video.shape[1] != 3 or video.shape != reference.shape or len(video) == 0:
        raise ValueError(
            f"expected two (T, 3, H, W) videos of one shape, got {tuple(video.shape)} and {tuple(reference.shape)}"
        )
    if ffmpeg_version() is None:
        raise FfmpegError(ABSENT)
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "true.rgb").open("wb") as target:
            _write(reference, target)
        return _run(video, Path(folder))


@lru_cache(maxsize=1)
def ffmpeg_version() -> str | None:
    """Return the version of the ffmpeg on the PATH, or None if there is none or it has no libvmaf."""
    if shutil.which("ffmpeg") is None:
        return None
    told = [
        subprocess.run(["ffmpeg", "-hide_banner", flag], capture_output=True, text=True, check=False).stdout
        for flag in ("-filters", "-version")
    ]
    words = told[1].split()
    return words[2] if " libvmaf " in told[0] and len(words) > 2 else None


def _run(video: Tensor, folder: Path) -> float:
    height, width = video.shape[-2:]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25", "-i"]
    command = ["ffmpeg", "-v", "error", *raw, "pipe:0", *raw, "true.rgb", "-lavfi", GRAPH, "-f", "null", "-"]
    with (folder / "errors.txt").open("w+b") as errors:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        try:
            _write(video, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it stopped early: what it says about that is read below
        status = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").split("\n")
    try:
        log = json.loads((folder / "vmaf.json").read_text(encoding="utf-8"))
        return float(log["pooled_metrics"]["vmaf"]["mean"])
    except (OSError, ValueError, KeyError) as error:
        reason = next((line for line in reversed(said) if line.strip()), f"exit status {status}")
        raise FfmpegError(f"ffmpeg could not compute VMAF: {reason.strip()[:300]}") from error


def _write(video: Tensor, target: Any) -> None:
    for frame in video.cpu():
        target.write(frame.permute(1, 2, 0).contiguous().numpy().tobytes())
