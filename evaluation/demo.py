"""The demo: from prompts to a report, every step of which is real and may be interrupted and repeated."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from sqlalchemy.orm import Session
from tqdm import tqdm

from arena import exchange, migrations, studies
from arena.database import Database, open_database
from arena.protocol import Protocol
from evaluation.errors import EvaluationError
from evaluation.prompts import demo_prompts
from evaluation.reference import sprites_reference
from evaluation.report.build import build_report
from evaluation.report.html import to_html
from evaluation.report.write import write_text
from evaluation.runs import make_videos
from evaluation.scoring import score_system
from evaluation.systems.base import System
from evaluation.systems.pipeline import Pipeline
from evaluation.systems.sprites_truth import SpritesTruth

ARMS = ("full", "-v2v", "-vfi")
STUDY = "sprites-stages"
TABLE_1 = "magicvideo-v2-table-1"
GENAI_BENCH = "genai-bench-video"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What the demo generates and measures.

    Attributes:
        systems: the first one is the study's candidate, the others its competitors.
        bounds: systems that are generated and scored beside them, but not voted on.
        reference_clips: true clips behind the Fréchet distance.
    """

    systems: Sequence[System]
    bounds: Sequence[System] = ()
    prompts: Sequence[str] = field(default_factory=demo_prompts)
    metrics: Sequence[str] = ("clip", "video_text", "fvd", "temporal")
    reference_clips: int = 16


def default_plan() -> DemoPlan:
    """Return the sprites pipeline with and without V2V and VFI, beside the ground truth."""
    return DemoPlan(systems=Pipeline("sprites").arms(*ARMS), bounds=(SpritesTruth(),))


def run_demo(folder: Path, say: Say, plan: DemoPlan | None = None, *, progress: bool = True) -> Path:
    """Go from prompts to a report inside ``folder`` and return the report's path.

    What an earlier call has done is recognised and kept.

    Args:
        folder: receives the database, the videos, the reference clips and the report.
        say: told each step in one line.
        plan: what to make; ``default_plan()`` if None.

    Raises:
        EvaluationError: the folder cannot be written, or a step fails in a way the user can mend.
    """
    plan = plan or default_plan()
    steps = _Steps(say, total=6)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error
    url = f"sqlite:///{folder / 'magicvideo.db'}"
    with steps("database") as done:
        done(f"at revision {migrations.upgrade(url)}")
    database = open_database(url)
    try:
        _make_and_score(database, folder, plan, steps, progress)
        with steps("blinded study") as done:
            done(_study(database, plan, progress))
        with steps("published votes") as done:
            done(_import_votes(database))
        with steps("report") as done:
            report = build_report(database, vote_command="make arena", title="MagicVideo Arena: the demo")
            write_text(folder / "report.html", to_html(report))
            write_text(folder / "report.json", report.to_json())
            done(report.headline)
    finally:
        database.close()
    return folder / "report.html"


def _make_and_score(
    database: Database, folder: Path, plan: DemoPlan, steps: "_Steps", progress: bool
) -> None:
    systems = [*plan.systems, *plan.bounds]
    with steps("videos") as done:
        run = make_videos(database, systems, plan.prompts, folder=folder / "videos", progress=progress)
        done(f"{run.made} made, {run.reused} there already")
    with steps("scores") as done:
        reference = sprites_reference(folder / "reference", plan.reference_clips, progress=progress)
        scored = [
            score_system(database, item.name, metrics=plan.metrics, reference=reference, progress=progress)
            for item in tqdm(systems, desc="systems scored", disable=not progress)
        ]
        fresh, known = sum(item.scored for item in scored), sum(item.reused for item in scored)
        done(f"{fresh} videos scored, {known} there already")


def _study(database: Database, plan: DemoPlan, progress: bool) -> str:
    candidate, *competitors = (item.name for item in plan.systems)
    protocol = Protocol(candidate=candidate, competitors=tuple(competitors))
    with database.session() as session:
        state = studies.create_study(session, STUDY, protocol, prompts=plan.prompts).state
    if state == "draft":  # one that its owner has paused or closed stays so
        _open(database, progress)
    with database.reading() as session:
        status = studies.study_status(session, STUDY)
    return f"{STUDY} is {status.state}: {status.pairs} pairs, {status.votes} votes so far"


def _open(database: Database, progress: bool) -> None:
    with tqdm(desc="blinded copies", unit="video", disable=not progress) as bar:

        def count(made: int, needed: int) -> None:
            bar.total = needed
            bar.update(made - bar.n)

        studies.open_study(database, STUDY, count)


def _import_votes(database: Database) -> str:
    home = Path(str(files("evaluation") / "data" / "votes"))

    def table_1(session: Session) -> exchange.ImportResult:
        return exchange.import_counts(
            session,
            home / "magicvideo_v2_table1.csv",
            TABLE_1,
            stated_evaluators=61,
            stated_comparisons=500,
        )

    def genai_bench(session: Session) -> exchange.ImportResult:
        path = home / "genai_bench_video_votes.csv"
        return exchange.import_genai_bench(session, path, GENAI_BENCH, both_bad="same")

    messages = []
    for bring_in in (table_1, genai_bench):
        with database.session() as session:
            messages.append(bring_in(session).message)
    return "; ".join(messages)


class _Steps:
    """Say each step in one line with the time it took."""

    def __init__(self, say: Say, total: int) -> None:
        self.say = say
        self.total = total
        self.number = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        self.number += 1
        begun = time.monotonic()
        results: list[str] = []
        yield results.append
        taken = time.monotonic() - begun
        self.say(f"[{self.number}/{self.total}] {name}: {'; '.join(results)} ({taken:.1f} s)")
