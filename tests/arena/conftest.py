"""Small studies and clips for the arena's tests."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from arena import catalogue, media
from arena.columns import now_utc
from arena.database import Database, open_database
from arena.models import DegradedCopy, Pair, Presentation, Study, Video
from arena.protocol import Protocol
from arena.studies import create_study

ClipMaker = Callable[..., Path]
StudyMaker = Callable[..., Study]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of either engine, with every table and no rows."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def make_clip(tmp_path: Path) -> ClipMaker:
    """Write a short mp4 with a moving square; the same seed gives the same bytes, another one others."""

    def make(
        name: str = "clip.mp4", width: int = 64, height: int = 48, frames: int = 6, seed: int = 0
    ) -> Path:
        import av

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        background = np.random.default_rng(seed).integers(0, 80, (height, width, 3), dtype=np.uint8)
        with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
            container.metadata["title"] = "secret system name"
            # With its macroblock tree x264 gives other bytes for the same frames once in some hundred files.
            stream = container.add_stream("libx264", rate=Fraction(10), options={"x264-params": "mbtree=0"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(frames):
                picture = background.copy()
                picture[8:24, 2 * index : 2 * index + 16] = 255
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return make


def _bare_video(session: Session, system: str, prompt: str, sha256: str) -> Video:
    """Insert a video whose bytes nobody will decode."""
    video = Video(
        system_id=catalogue.ensure_system(session, system).id,
        prompt_id=catalogue.ensure_prompt(session, prompt).id,
        seed=0,
        variant="",
        media_sha256=sha256,
        width=64,
        height=64,
        fps_num=10,
        fps_den=1,
        frames=6,
        duration_ms=600,
        created_at=now_utc(),
    )
    session.add(video)
    session.flush()
    return video


@pytest.fixture(scope="session")
def make_study() -> StudyMaker:
    """Fill a database with an open study whose clips are stand-in bytes: quick, however many pairs."""

    def make(
        database: Database,
        slug: str = "study",
        prompts: int = 4,
        competitors: tuple[str, ...] = ("rival",),
        state: str = "open",
        **protocol: Any,
    ) -> Study:
        with database.session() as session:
            sha256 = media.store(session, b"stand-in for a clip", mime="application/octet-stream")
            for number in range(prompts):
                for system in ("ours", *competitors):
                    _bare_video(session, system, f"prompt {number}", sha256)
            keys = {"min_watch": 0.0, "comments": True} | protocol
            plan = Protocol(candidate="ours", competitors=competitors, **keys)
            study = create_study(session, slug, plan)
            session.add_all(
                Presentation(study_id=study.id, video_id=video.id, media_sha256=sha256, changes={})
                for video in catalogue.find_videos(session)
            )
            session.flush()
            session.add_all(
                DegradedCopy(study_id=study.id, video_id=video_id, media_sha256=sha256, changes={})
                for video_id in session.scalars(select(Pair.video_a).where(Pair.video_a == Pair.video_b))
            )
            if state != "draft":
                study.state = "open"
            session.flush()
        return study

    return make
