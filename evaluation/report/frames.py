"""Example videos inside the page: a clip that plays, and a few of its frames for paper."""

import base64
import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

from evaluation.errors import EvaluationError
from magicvideo.video import ENCODER

SHOWN = 5  # frames of a video
HEIGHT = 128  # pixels of a shown frame
CLIP_HEIGHT = 256  # pixels of a clip that has to be made smaller
CLIP_BYTES = 400_000  # larger clips are made smaller
PLAYS_EVERYWHERE = ("h264", "vp8", "vp9")


def example_frames(data: bytes, count: int, name: str) -> dict[int, str]:
    """Cut ``SHOWN`` evenly spaced frames, first and last among them, out of an encoded video.

    Args:
        data: the file's bytes.
        count: number of frames in it.
        name: what to call the video in an error.

    Returns:
        JPEG data URIs by frame number.

    Raises:
        EvaluationError: the bytes are no video that can be decoded, or hold none of the frames.
    """
    wanted = {int(number) for number in np.linspace(0, max(count - 1, 0), SHOWN).round()}
    found: dict[int, str] = {}
    try:
        with av.open(io.BytesIO(data)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = _data_uri(frame)
    except (av.FFmpegError, IndexError) as error:
        raise EvaluationError(f"cannot decode the stored video of {name}: {error}") from error
    if not found:
        raise EvaluationError(f"the stored video of {name} holds no frame")
    return found


def playable(data: bytes, name: str) -> str:
    """Return a video as a data URI that browsers play; large ones and rare codecs are encoded again, smaller.

    Raises:
        EvaluationError: the bytes are no video that can be decoded.
    """
    try:
        with av.open(io.BytesIO(data)) as container:
            codec = container.streams.video[0].codec_context.name
            if len(data) > CLIP_BYTES or codec not in PLAYS_EVERYWHERE:
                data = _smaller(container)
    except (av.FFmpegError, IndexError) as error:
        raise EvaluationError(f"cannot decode the stored video of {name}: {error}") from error
    return "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")


def _smaller(container: Any) -> bytes:
    source = container.streams.video[0]
    scale = min(1.0, CLIP_HEIGHT / source.codec_context.height)
    width, height = (
        max(2, round(side * scale / 2) * 2)
        for side in (source.codec_context.width, source.codec_context.height)
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        rate = Fraction(source.average_rate or source.guessed_rate or 24)
        stream = target.add_stream("libx264", rate=rate, options=ENCODER | {"crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(container.decode(video=0)):
            picture = frame.reformat(width, height, "yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            target.mux(stream.encode(picture))
        target.mux(stream.encode())
    return buffer.getvalue()


def _data_uri(frame: Any) -> str:
    image = frame.to_image(width=max(round(frame.width * HEIGHT / frame.height), 1), height=HEIGHT)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
