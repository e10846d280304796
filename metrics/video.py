"""Read a video file into frames, within limits, without trusting the file."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from metrics.errors import MediaError, UnknownNameError

# What PyAV raises on damaged files besides its own errors.
DECODE_ERRORS = (
    av.FFmpegError, OSError, ValueError, IndexError, AttributeError, EOFError, MemoryError, KeyError,
    TypeError, ZeroDivisionError, OverflowError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may ask for; checked against its header before decoding and again on every frame."""

    max_bytes: int = 2 * 1024**3
    max_pixels: int = 4096 * 2304
    max_frames: int = 20_000
    max_seconds: float = 900.0
    max_decoded_bytes: int = 4 * 1024**3


@dataclass(frozen=True)
class VideoClip:
    """Frames of one file.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8 RGB.
        fps: of ``frames``, after sampling.
        path: the file.
        timestamps: ``(T,)`` presentation times in seconds, float64.
        sampling: the policy the frames were chosen by.
        native_fps: frames per second of the file.
    """

    frames: Tensor
    fps: float
    path: Path
    timestamps: Tensor
    sampling: str
    native_fps: float


def read_video(path: Path | str, limits: Limits = Limits(), sampling: str = "native") -> VideoClip:
    """Decode an mp4 or mov file.

    The demuxer is forced, so that a playlist in disguise cannot open other files or the network. Frames are
    chosen by presentation time.

    Args:
        path: the file.
        limits: bytes, pixels, frames and seconds allowed.
        sampling: ``native`` (every frame), ``uniform:N`` (N frames evenly from the first to the last), or
            ``fps:X`` (X frames per second from the first; at most the file's own rate).

    Raises:
        MediaError: the file is missing, empty, not mp4, damaged, cut short, or beyond a limit.
        UnknownNameError: no such sampling.
    """
    path = Path(path)
    parse_sampling(sampling)
    _check_file(path, limits)
    try:
        times, rate = _probe(path, limits)
        wanted = _choose(times, rate, sampling, path.name)
        frames = _decode(path, limits, times, wanted)
    except MediaError:
        raise
    except DECODE_ERRORS as error:
        detail = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise MediaError(
            f"{path} cannot be decoded as mp4 video ({detail}); encode it again or leave it out"
        ) from error
    stamps = torch.from_numpy(times[wanted])
    return VideoClip(frames, _sampled_rate(stamps, rate, sampling), path, stamps, sampling, rate)


def resample(clip: VideoClip, sampling: str) -> VideoClip:
    """Choose frames of a clip that was read with ``native`` sampling, as ``read_video`` would have.

    Raises:
        MediaError: the clip has too few frames per second.
        UnknownNameError: no such sampling.
        ValueError: the clip was sampled before.
    """
    if clip.sampling != "native":
        raise ValueError(f"expected a clip of native sampling, got {clip.sampling}")
    times = clip.timestamps.numpy()
    wanted = _choose(times, clip.native_fps, sampling, clip.path.name)
    stamps = torch.from_numpy(times[wanted])
    rate = _sampled_rate(stamps, clip.native_fps, sampling)
    return VideoClip(
        clip.frames[torch.from_numpy(wanted)], rate, clip.path, stamps, sampling, clip.native_fps
    )


def parse_sampling(sampling: str) -> tuple[str, float]:
    """Return the kind and the number of ``native``, ``uniform:N`` or ``fps:X``.

    Raises:
        UnknownNameError: anything else.
    """
    kind, _, number = sampling.partition(":")
    if sampling == "native":
        return kind, 0.0
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    valid = (kind == "uniform" and value >= 1 and value.is_integer()) or (kind == "fps" and value > 0)
    if not (valid and math.isfinite(value)):
        raise UnknownNameError("sampling", sampling, ["native", "uniform:N (N >= 1)", "fps:X (X > 0)"])
    return kind, value


def decoder_signature() -> str:
    """Name the decoder, since pixels differ slightly between FFmpeg versions."""
    return f"pyav-libavcodec{av.library_versions['libavcodec'][0]}-rgb24"


def _check_file(path: Path, limits: Limits) -> None:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MediaError(f"{path} is not a file; name an mp4 file")
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror or error})") from error
    if size == 0:
        raise MediaError(f"{path} is empty; expected an mp4 video")
    if head[4:8] != b"ftyp":
        raise MediaError(
            f"{path} is not an mp4 file (it does not begin with an ftyp box), whatever its name says"
        )
    if size > limits.max_bytes:
        raise MediaError(f"{path} has {size} bytes, more than the limit of {limits.max_bytes}")


def _open(path: Path) -> Any:
    return av.open(
        str(path.resolve()), format="mov", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
    )


def _probe(path: Path, limits: Limits) -> tuple[np.ndarray, float]:
    """Return the sorted presentation times of all frames in seconds, and the rate, without decoding."""
    with _open(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path} holds no video stream; expected an mp4 with pictures")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width < 1 or height < 1:
            raise MediaError(f"{path} does not say how large its frames are; encode it again")
        if width * height > limits.max_pixels:
            raise MediaError(
                f"{path} has frames of {width} x {height}, more than the limit of {limits.max_pixels} pixels"
            )
        if stream.frames > limits.max_frames:
            raise MediaError(f"{path} has {stream.frames} frames, more than the limit of {limits.max_frames}")
        base = stream.time_base or Fraction(1, 90_000)
        times: list[float] = []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                times.append(float(packet.pts * base))
            if len(times) > limits.max_frames:
                raise MediaError(f"{path} has more than the limit of {limits.max_frames} frames")
        average = float(stream.average_rate or 0)
    if not times:
        raise MediaError(f"{path} holds no frame; expected a video")
    stamps = np.sort(np.array(times, np.float64))
    span = stamps[-1] - stamps[0]
    if span > limits.max_seconds:
        raise MediaError(f"{path} lasts {span:.1f} s, more than the limit of {limits.max_seconds:g} s")
    rate = average if average > 0 else ((len(stamps) - 1) / span if span > 0 else 0.0)
    if not (rate > 0 and math.isfinite(rate)):
        raise MediaError(f"{path} does not say its frame rate; encode it again")
    return stamps, rate


def _choose(times: np.ndarray, rate: float, sampling: str, name: str) -> np.ndarray:
    """Return the indices of the frames to keep, by nearest presentation time."""
    kind, number = parse_sampling(sampling)
    if kind == "native":
        return np.arange(len(times))
    if kind == "uniform":
        targets = np.linspace(times[0], times[-1], int(number))
    else:
        if number > rate * 1.001:
            raise MediaError(f"{name} has {rate:g} frames per second, too few for sampling fps:{number:g}")
        targets = np.arange(times[0], times[-1] + 0.5 / number, 1 / number)
    return np.abs(times[None, :] - targets[:, None]).argmin(1)


def _decode(path: Path, limits: Limits, times: np.ndarray, wanted: np.ndarray) -> Tensor:
    """Decode the frames ``wanted`` (sorted indices, repeats allowed) into one preallocated tensor."""
    frames: Tensor | None = None
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", 1
        seen = 0
        for frame in container.decode(stream):
            if seen >= len(times):
                break
            if frames is None:
                frames = _allocate(path, limits, len(wanted), frame.height, frame.width)
            if (frame.height, frame.width) != frames.shape[-2:]:
                raise MediaError(
                    f"{path} changes its frame size at frame {seen}; encode it again with one size"
                )
            places = np.flatnonzero(wanted == seen)
            if len(places):
                pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                frames[places] = pixels
            seen += 1
    if frames is None or seen < len(times):
        raise MediaError(
            f"{path} is cut short: {seen} of {len(times)} frames can be decoded; copy or encode it again"
        )
    return frames


def _allocate(path: Path, limits: Limits, count: int, height: int, width: int) -> Tensor:
    if height * width > limits.max_pixels:
        raise MediaError(
            f"{path} has frames of {width} x {height}, more than the limit of {limits.max_pixels} pixels"
        )
    if count * height * width * 3 > limits.max_decoded_bytes:
        raise MediaError(
            f"{path} needs {count * height * width * 3} bytes of memory, more than the limit of "
            f"{limits.max_decoded_bytes}; choose a sampling of fewer frames"
        )
    return torch.zeros(count, 3, height, width, dtype=torch.uint8)


def _sampled_rate(stamps: Tensor, rate: float, sampling: str) -> float:
    kind, number = parse_sampling(sampling)
    if kind == "native":
        return rate
    if kind == "fps":
        return number
    span = float(stamps[-1] - stamps[0])
    return (len(stamps) - 1) / span if span > 0 else rate
