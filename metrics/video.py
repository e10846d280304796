"""Read a video file into frames, within limits, without trusting the file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from metrics.errors import MediaError
from metrics.mp4 import check_boxes
from metrics.sampling import chosen_frames, parse_sampling, sampled_rate

# What PyAV raises on damaged files besides its own errors.
DECODE_ERRORS = (
    av.FFmpegError, OSError, ValueError, IndexError, AttributeError, EOFError, MemoryError, KeyError,
    TypeError, ZeroDivisionError, OverflowError, RuntimeError,
)  # fmt: skip
SAMPLES_PER_FRAME = 100  # of the longest table of any track, audio included
PART = 4  # frames decoded at once when streaming; larger ones cost memory and win no time
RATE_TOLERANCE = 0.01  # by which a header's frame rate may differ from the frames' times


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


class VideoFile:
    """An mp4 or mov file whose header was read and found within the limits; frames are decoded on demand.

    The demuxer is forced, so that a playlist in disguise cannot open other files or the network. Frames are
    chosen by presentation time, turned as the file's display matrix says, and converted to RGB by its colour
    tags (untagged: BT.601, limited range, as FFmpeg does).

    Attributes:
        path: the file.
        times: ``(T,)`` sorted presentation times of all frames in seconds, float64.
        fps: frames per second.
        size: height and width of a frame as the header says, before turning.

    Args:
        path: the file.
        limits: bytes, pixels, frames and seconds allowed.

    Raises:
        MediaError: the file is missing, empty, not mp4, damaged, or beyond a limit.
    """

    def __init__(self, path: Path | str, limits: Limits = Limits()) -> None:
        self.path, self.limits = Path(path), limits
        _check_file(self.path, limits)
        try:
            self.times, self.fps, self.size = _probe(self.path, limits)
        except DECODE_ERRORS as error:
            raise _undecodable(self.path, error) from error

    def clip(self, sampling: str = "native") -> VideoClip:
        """Return the frames of a sampling: ``native``, ``uniform:N`` or ``fps:X``.

        Raises:
            MediaError: damaged, cut short, beyond a limit, or of too few frames per second.
            UnknownNameError: no such sampling.
        """
        wanted = self.indices(sampling)
        frames: Tensor | None = None
        start = 0
        for part in self._decoded(wanted, PART):
            if frames is None:
                self._check_memory(len(wanted), *part.shape[-2:])
                frames = torch.empty(len(wanted), *part.shape[1:], dtype=torch.uint8)
            frames[start : start + len(part)] = part
            start += len(part)
        assert frames is not None  # a file without frames was refused when it was probed
        times = self.times[wanted]
        rate = sampled_rate(times, self.fps, sampling)
        return VideoClip(frames, rate, self.path, torch.from_numpy(times), sampling, self.fps)

    def parts(self, sampling: str = "native", size: int = PART) -> Iterator[Tensor]:
        """Yield the frames of a sampling in order, at most ``size`` at once: ``(n, 3, H, W)`` uint8.

        Raises:
            MediaError: as ``clip``, but also after frames were yielded.
        """
        return self._decoded(self.indices(sampling), size)

    def indices(self, sampling: str) -> np.ndarray:
        """Return the sorted indices of the frames of a sampling; some may repeat."""
        return chosen_frames(self.times, self.fps, sampling, self.path.name)

    def _decoded(self, wanted: np.ndarray, size: int) -> Iterator[Tensor]:
        try:
            yield from _parts(self, wanted, size)
        except DECODE_ERRORS as error:
            raise _undecodable(self.path, error) from error

    def _check_memory(self, count: int, height: int, width: int) -> None:
        needed = count * height * width * 3
        if needed > self.limits.max_decoded_bytes:
            raise MediaError(
                f"{self.path} needs {needed} bytes of memory, more than the limit of "
                f"{self.limits.max_decoded_bytes}; choose a sampling of fewer frames"
            )


def read_video(path: Path | str, limits: Limits = Limits(), sampling: str = "native") -> VideoClip:
    """Decode an mp4 or mov file; see ``VideoFile``.

    Args:
        path: the file.
        limits: bytes, pixels, frames and seconds allowed.
        sampling: ``native`` (every frame), ``uniform:N`` (N frames evenly from the first to the last), or
            ``fps:X`` (X frames per second from the first; at most the file's own rate).

    Raises:
        MediaError: the file is missing, empty, not mp4, damaged, cut short, or beyond a limit.
        UnknownNameError: no such sampling.
    """
    parse_sampling(sampling)
    return VideoFile(path, limits).clip(sampling)


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
    wanted = chosen_frames(times, clip.native_fps, sampling, clip.path.name)
    rate = sampled_rate(times[wanted], clip.native_fps, sampling)
    stamps, frames = torch.from_numpy(times[wanted]), clip.frames[torch.from_numpy(wanted)]
    return VideoClip(frames, rate, clip.path, stamps, sampling, clip.native_fps)


def decoder_signature() -> str:
    """Name the decoder, since pixels differ slightly between FFmpeg versions."""
    return f"pyav-libavcodec{av.library_versions['libavcodec'][0]}-rgb24"


def _undecodable(path: Path, error: Exception) -> MediaError:
    detail = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return MediaError(f"{path} cannot be decoded as mp4 video ({detail}); encode it again or leave it out")


def _check_file(path: Path, limits: Limits) -> None:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MediaError(f"{path} is not a file; name an mp4 file")
        with path.open("rb") as file:
            head = file.read(12)
        if size == 0:
            raise MediaError(f"{path} is empty; expected an mp4 video")
        if head[4:8] != b"ftyp":
            raise MediaError(
                f"{path} is not an mp4 file (it does not begin with an ftyp box), whatever its name says"
            )
        if size > limits.max_bytes:
            raise MediaError(f"{path} has {size} bytes, more than the limit of {limits.max_bytes}")
        check_boxes(path, size, SAMPLES_PER_FRAME * limits.max_frames)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise MediaError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _open(path: Path) -> Any:
    options = {"protocol_whitelist": "file", "enable_drefs": "0", "use_absolute_path": "0"}
    # Without it odd tags make a file unreadable; PyAV 19 has no such argument and reads any tag.
    tags = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    return av.open(str(path.resolve()), format="mov", options=options, **tags)


def _video_stream(container: Any, path: Path, limits: Limits) -> Any:
    if not container.streams.video:
        raise MediaError(f"{path} holds no video stream; expected an mp4 with pictures")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path} holds video of a codec that cannot be decoded here; encode it as H.264")
    if context.width < 1 or context.height < 1:
        raise MediaError(f"{path} does not say how large its frames are; encode it again")
    _check_pixels(path, context.width, context.height, limits)
    # The stream may unfold into larger frames than the header says; the decoder then refuses them.
    context.options = {"max_pixels": str(limits.max_pixels)}
    context.thread_type, context.thread_count = "AUTO", 1
    return stream


def _check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise MediaError(
            f"{path} has frames of {width} x {height}, more than the limit of {limits.max_pixels} pixels"
        )


def _probe(path: Path, limits: Limits) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Return the sorted times of all frames in seconds, the rate, and the frame size, without decoding."""
    with _open(path) as container:
        stream = _video_stream(container, path, limits)
        if stream.frames > limits.max_frames:
            raise MediaError(f"{path} has {stream.frames} frames, more than the limit of {limits.max_frames}")
        base = stream.time_base or Fraction(1, 90_000)
        times: list[float] = []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                times.append(float(packet.pts * base))
            if len(times) > limits.max_frames:
                raise MediaError(f"{path} has more than the limit of {limits.max_frames} frames")
        stated = float(stream.average_rate or 0)
        size = (int(stream.codec_context.height), int(stream.codec_context.width))
    if not times:
        raise MediaError(f"{path} holds no frame; expected a video")
    stamps = np.sort(np.array(times, np.float64))
    span = float(stamps[-1] - stamps[0])
    if span > limits.max_seconds:
        raise MediaError(f"{path} lasts {span:.1f} s, more than the limit of {limits.max_seconds:g} s")
    if len(stamps) > 1 and span <= 0:
        raise MediaError(f"{path} shows all its {len(stamps)} frames at one time; encode it again")
    return stamps, _rate(path, stated, (len(stamps) - 1) / span if span > 0 else 0.0), size


def _rate(path: Path, stated: float, measured: float) -> float:
    """Return the stated rate where the frames' times agree with it, else the measured one."""
    if measured > 0 and not abs(stated / measured - 1) <= RATE_TOLERANCE:
        stated = measured
    if not (stated > 0 and math.isfinite(stated)):
        raise MediaError(f"{path} does not say its frame rate; encode it again")
    return stated


def _parts(file: VideoFile, wanted: np.ndarray, size: int) -> Iterator[Tensor]:
    """Decode the frames ``wanted`` (sorted indices, repeats allowed), then check that the file is whole."""
    path, copies = file.path, np.bincount(wanted, minlength=len(file.times))
    kept: list[Tensor] = []
    shape: tuple[int, int] | None = None
    seen = 0
    with _open(path) as container:
        for frame in container.decode(_video_stream(container, path, file.limits)):
            if seen >= len(file.times):
                break
            _check_pixels(path, frame.width, frame.height, file.limits)
            shape = shape or (frame.height, frame.width)
            if (frame.height, frame.width) != shape:
                raise MediaError(
                    f"{path} changes its frame size at frame {seen}; encode it again with one size"
                )
            if frame.is_corrupt:
                raise MediaError(f"{path} is damaged at frame {seen}; copy or encode it again")
            if copies[seen]:
                kept += [_rgb(frame)] * int(copies[seen])
            seen += 1
            while len(kept) >= size:
                yield torch.stack(kept[:size])
                kept = kept[size:]
    if seen < len(file.times):
        raise MediaError(
            f"{path} is cut short: {seen} of {len(file.times)} frames can be decoded; copy or encode it again"
        )
    if kept:
        yield torch.stack(kept)


def _rgb(frame: Any) -> Tensor:
    """Return a frame as ``(3, H, W)`` uint8 RGB, turned upright."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    if turns:
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    return torch.from_numpy(pixels).permute(2, 0, 1)
