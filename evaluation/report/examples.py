"""Choose example videos and bring them into the report."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import media
from arena.catalogue import system_label
from arena.models import Video
from evaluation.report.frames import example_frames, playable
from evaluation.report.model import Example, Strip

EXAMPLE_PROMPTS = 4
EXAMPLE_SYSTEMS = 8


def find_examples(session: Session) -> list[Example]:
    """Show the prompts most systems have, in the order they came in, and the lowest seed of each.

    Raises:
        EvaluationError: a stored video cannot be decoded.
    """
    counts = (
        select(Video.prompt_id)
        .group_by(Video.prompt_id)
        .order_by(func.count(Video.system_id.distinct()).desc(), Video.prompt_id)
        .limit(EXAMPLE_PROMPTS)
    )
    return [_example(session, prompt_id) for prompt_id in session.scalars(counts).all()]


def _example(session: Session, prompt_id: int) -> Example:
    rows = session.scalars(
        select(Video).where(Video.prompt_id == prompt_id).order_by(Video.system_id, Video.seed, Video.id)
    ).all()
    first: dict[str, Video] = {}
    for video in rows:
        first.setdefault(system_label(video.system), video)
    chosen = list(first.values())[:EXAMPLE_SYSTEMS]
    return Example(prompt=chosen[0].prompt.text, strips=tuple(_strip(session, video) for video in chosen))


def _strip(session: Session, video: Video) -> Strip:
    system = system_label(video.system)
    name = f"{system} for {video.prompt.text!r}"
    data = media.read(session, video.media_sha256)
    frames = example_frames(data, video.frames, name)
    fps = video.fps_num / video.fps_den
    geometry = f"{video.width}×{video.height}, {video.frames} frames, {fps:g} fps, seed {video.seed}"
    return Strip(system, geometry, tuple(frames), tuple(frames.values()), playable(data, name))
