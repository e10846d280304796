"""Whole videos of parent and child: a blinded study with the judge's automatic votes, and the regression gate."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arena import media, migrations, studies
from arena.catalogue import find_videos
from arena.database import Database, open_database
from arena.media import write_file
from arena.protocol import Protocol
from evaluation.gate.compare import GateResult, compare
from evaluation.gate.sides import Side, measure_side
from evaluation.gate.specification import GateSpec
from evaluation.improve_compare import Votes, preference_of
from evaluation.judge_votes import automatic_outcomes, vote_study
from evaluation.runs import make_videos
from evaluation.systems.pipeline import Pipeline, PipelineArm

if TYPE_CHECKING:
    from magicvideo.sprites.judge import SpritesJudge


def compare_videos(
    database_file: Path,
    folder: Path,
    *,
    name: str,
    parent: str,
    child: str,
    prompts: Sequence[str],
    until: str,
    spec: GateSpec,
    judge: "SpritesJudge",
    band: float,
    progress: bool = True,
) -> tuple[Votes, GateResult]:
    """Make one video of each prompt and side, open the study ``name`` on them, let the judge vote, ask the gate.

    The study stays open, so that people can vote on the same pairs; their votes are counted apart.

    Args:
        database_file: an SQLite file, made if it is new.
        folder: receives the videos.
        name: of the study; the systems are called ``NAME parent`` and ``NAME child``.
        parent: checkpoint or preset.
        child: checkpoint.
        prompts: one video each, with the same seed.
        until: last stage.
        spec: the gate.
        judge: the sprites judge.
        band: scores this close are the same.
        progress: show bars.
    """
    url = f"sqlite:///{database_file}"
    migrations.upgrade(url)
    database = open_database(url)
    try:
        sides = [
            PipelineArm(Pipeline(place), until=until, name=f"{name} {role}")
            for role, place in (("parent", parent), ("child", child))
        ]
        make_videos(database, sides, prompts, folder=folder / "store", progress=progress)
        before, after = (system.name for system in sides)
        with database.session() as session:
            protocol = Protocol(candidate=after, competitors=(before,))
            studies.create_study(session, name, protocol, prompts=list(prompts))
        studies.open_study(database, name)
        vote_study(database, name, judge=judge, band=band)
        with database.reading() as session:
            outcomes = automatic_outcomes(session, name)
        votes = preference_of([outcome for _, outcome in outcomes], [prompt for prompt, _ in outcomes])
        measured = [
            _side(database, folder / role, system.name, spec, progress)
            for role, system in zip(("parent", "child"), sides, strict=True)
        ]
    finally:
        database.close()
    return votes, compare(measured[0], measured[1], spec)


def _side(database: Database, folder: Path, system: str, spec: GateSpec, progress: bool) -> Side:
    """Lay a system's videos down as files and measure them."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts: dict[str, str | None] = {}
    with database.reading() as session:
        for video in find_videos(session, system=system):
            key = hashlib.sha256(video.prompt.text.encode()).hexdigest()[:16]
            prompts[key] = video.prompt.text
            write_file(folder / f"{key}.mp4", media.read(session, video.media_sha256))
    return measure_side(folder, prompts, spec, progress=progress)
