"""Example frames: a few of a video's frames as JPEG images inside the page."""

import base64
import io
from typing import Any

import av
import numpy as np

from evaluation.errors import EvaluationError

SHOWN = 5  # frames of a video
HEIGHT = 128  # pixels


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


def _data_uri(frame: Any) -> str:
    image = frame.to_image(width=max(round(frame.width * HEIGHT / frame.height), 1), height=HEIGHT)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
