"""Videos as files and as bytes in the database: probe, store once, and make the copies that evaluators see.

A file is opened only as what it must be: its first bytes have to name an mp4 or mov container, the demuxer is
forced, and no protocol but a local file is allowed, so that a playlist cannot reach other files or hosts.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena.columns import now_utc
from arena.errors import MediaError
from arena.models import Media
from arena.upsert import insert_missing

MAX_BYTES = 512 * 2**20
MAX_PIXELS = 4096 * 2304
MAX_FRAMES = 3_000
MAX_SECONDS = 120.0
CANONICAL_CRF = "16"
EXACT = {"x264-params": "mbtree=0"}  # with it x264 gives other bytes for the same frames now and then
BITEXACT = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a video file holds, measured from its container and confirmed by decoding its first frame."""

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    seconds: float
    codec: str
    has_audio: bool
    byte_size: int


def probe(path: Path) -> Clip:
    """Measure an mp4 or mov file.

    Raises:
        MediaError: It is missing, no such container, damaged, without video, or over a limit on bytes,
            pixels, frames or seconds.
    """
    path = Path(path)
    byte_size = _sniff(path)
    try:
        with _open(path) as container:
            clip = _measure(path, byte_size, container)
            _within_limits(clip)
            if next(container.decode(video=0), None) is None:
                raise MediaError(f"{path}: the video has no frame")
    except _undecodable() as error:
        raise MediaError(
            f"{path}: the video is damaged or of a kind that cannot be decoded ({error})"
        ) from error
    return clip


def _undecodable() -> tuple[type[Exception], ...]:
    """List what PyAV raises on damaged files, found by decoding thousands of mutated ones."""
    import av

    return (av.FFmpegError, IndexError, AttributeError, UnicodeDecodeError, EOFError, MemoryError, ValueError)


def _sniff(path: Path) -> int:
    """Return the size of a file whose first bytes are those of an mp4 or mov container."""
    try:
        byte_size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise MediaError(f"{path}: cannot read the video ({error.strerror})") from error
    if byte_size > MAX_BYTES:
        raise MediaError(f"{path}: {byte_size} bytes are more than the {MAX_BYTES} a video may have")
    if start[4:8] != b"ftyp":
        raise MediaError(f"{path}: this is no mp4 or mov video: it begins with {start!r}")
    return byte_size


def _open(path: Path) -> Any:
    import av

    return av.open(str(path.absolute()), format="mp4", options={"protocol_whitelist": "file"})


def _measure(path: Path, byte_size: int, container: Any) -> Clip:
    if not container.streams.video:
        raise MediaError(f"{path}: the file has no video stream")
    stream = container.streams.video[0]
    rate = stream.average_rate or stream.guessed_rate
    if not rate or not stream.codec_context.width or not stream.codec_context.height:
        raise MediaError(f"{path}: the file does not say its frame rate or its size")
    fps = Fraction(rate)
    seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
    frames = stream.frames or round(seconds * fps)
    return Clip(
        path=path,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        fps=fps,
        frames=frames,
        seconds=seconds or float(frames / fps),
        codec=stream.codec_context.name,
        has_audio=bool(container.streams.audio),
        byte_size=byte_size,
    )


def _within_limits(clip: Clip) -> None:
    limits = (
        (clip.width * clip.height, MAX_PIXELS, "pixels a frame"),
        (clip.frames, MAX_FRAMES, "frames"),
        (clip.seconds, MAX_SECONDS, "seconds"),
    )
    for value, limit, unit in limits:
        if value > limit:
            raise MediaError(f"{clip.path}: {value:g} {unit} are more than the {limit:g} allowed")
    if clip.frames < 1:
        raise MediaError(f"{clip.path}: the video has no frame")


def store(session: Session, source: Path | bytes, mime: str = "video/mp4") -> str:
    """Keep bytes in the database, once however often they come, and return their sha256."""
    data = source if isinstance(source, bytes) else _read_file(source)
    if not data:
        raise MediaError("cannot store an empty file")
    sha256 = hashlib.sha256(data).hexdigest()
    if session.scalar(select(func.count()).where(Media.sha256 == sha256)):
        return sha256
    values = {"sha256": sha256, "byte_size": len(data), "mime": mime, "data": data, "created_at": now_utc()}
    insert_missing(session, Media, values)
    return sha256


def _read_file(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot read the video ({error.strerror})") from error


def size(session: Session, sha256: str) -> int:
    """Return the number of bytes stored under a sha256."""
    found = session.scalar(select(Media.byte_size).where(Media.sha256 == sha256))
    if found is None:
        raise MediaError(f"there is no media {sha256}")
    return found


def read(session: Session, sha256: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes ``start`` to ``stop`` (not included) without loading the rest."""
    total = size(session, sha256)
    stop = total if stop is None else min(stop, total)
    if not 0 <= start <= stop:
        raise MediaError(f"bytes {start} to {stop} are not within the {total} of media {sha256}")
    part = session.scalar(
        select(func.substr(Media.data, start + 1, stop - start, type_=Media.data.type)).where(
            Media.sha256 == sha256, Media.data.is_not(None)
        )
    )
    if part is None:
        raise MediaError(f"the bytes of media {sha256} are not in this database")
    return bytes(part)


def canonical(source: Path | bytes, *, width: int, height: int) -> bytes:
    """Encode a video so that nothing but its pictures tells where it came from.

    Every copy has the same box (the picture is scaled to fit and centred on grey), H.264 settings and colour
    tags, and no audio, metadata, encoder name or stream comment. Frame rate and frame count stay. The same
    input gives the same bytes.

    Args:
        source: An mp4 or mov file, or its bytes.
        width: Width of the box in pixels, even.
        height: Height of the box in pixels, even.
    """
    if width % 2 or height % 2 or width < 2 or height < 2:
        raise ValueError(f"width and height must be even and positive, received {width}x{height}")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, bytes):
            path = Path(folder) / "clip.mp4"
            path.write_bytes(source)
        else:
            path = Path(source)
        clip = probe(path)
        target = Path(folder) / "canonical.mp4"
        try:
            with _open(clip.path) as container:
                _encode(container, clip, target, (width, height))
        except _undecodable() as error:
            raise MediaError(f"{path}: the video breaks off or cannot be decoded ({error})") from error
        return target.read_bytes()


def _encode(container: Any, clip: Clip, target: Path, box: tuple[int, int]) -> None:
    import av
    from av.bitstream import BitStreamFilterContext

    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as output:
        stream = output.add_stream("libx264", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = *box, "yuv420p"
        context = stream.codec_context
        context.options = {"crf": CANONICAL_CRF, "preset": "medium", "threads": "1", **EXACT}
        context.flags |= BITEXACT
        context.color_range, context.colorspace = 1, 1
        context.color_primaries, context.color_trc = 1, 1
        strip = BitStreamFilterContext("filter_units=remove_types=6", in_stream=stream)
        fit = _letterbox(clip, *box)
        for index, frame in enumerate(container.decode(video=0)):
            if index >= MAX_FRAMES or frame.width * frame.height > MAX_PIXELS:
                raise MediaError(f"{clip.path}: the video is larger than its header says")
            shown = fit(frame)
            shown.pts, shown.time_base = index, 1 / clip.fps
            _mux(output, stream, strip, context.encode(shown))
        _mux(output, stream, strip, context.encode(None))


def _mux(output: Any, stream: Any, strip: Any, packets: Any) -> None:
    """Write packets without their encoder's comment; filtered packets lose their time base, so it is kept."""
    for packet in packets:
        time_base = packet.time_base
        for filtered in strip.filter(packet):
            filtered.time_base, filtered.stream = time_base, stream
            output.mux(filtered)


def _letterbox(clip: Clip, width: int, height: int) -> Any:
    """Return a function that scales frames into the box, centred on the middle grey of the page."""
    import numpy as np
    from av import VideoFrame

    scale = min(width / clip.width, height / clip.height)
    inner_width = min(width, max(2, round(clip.width * scale / 2) * 2))
    inner_height = min(height, max(2, round(clip.height * scale / 2) * 2))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2

    def fit(frame: Any) -> Any:
        inner = frame.reformat(inner_width, inner_height, "rgb24", interpolation="BICUBIC").to_ndarray()
        box = np.full((height, width, 3), 128, np.uint8)
        box[top : top + inner_height, left : left + inner_width] = inner
        return VideoFrame.from_ndarray(box, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )

    return fit


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
