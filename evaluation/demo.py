"""The demo: a bench, an ablation, a gate, a study and a report over all of them, each of which may be repeated."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy.orm import Session
from tqdm import tqdm

from arena import exchange, migrations, studies
from arena.database import Database, open_database
from evaluation.ablation.arms import arms_of, systems_of
from evaluation.ablation.run import run_ablation
from evaluation.ablation.specification import read_ablation
from evaluation.bench.run import Workspace, run_bench
from evaluation.engine.record import Job
from evaluation.errors import EvaluationError
from evaluation.gate.run import compare_places
from evaluation.gate.specification import read_gate
from evaluation.prompts import demo_prompts
from evaluation.reference import sprites_reference
from evaluation.report.build import build_report
from evaluation.report.html import to_html
from evaluation.report.sentences import ablation_answer
from evaluation.report.write import write_text

STUDY = "sprites-stages"
TABLE_1 = "magicvideo-v2-table-1"
GENAI_BENCH = "genai-bench-video"
FULL, WITHOUT_VFI = "full", "-vfi"
BENCH, ABLATION, GATE = "bench.yaml", "stages.yaml", "gate.yaml"
STEPS = 7
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What the demo generates and measures.

    Attributes:
        changes: settings of the pipeline that differ from the preset's.
        truth: size, frames and rate of the true clips beside it.
        metrics: of the bench and the ablation.
        gate: metrics of the gate with what is tolerated.
        reference_clips: true clips behind the Fréchet distance.
        workers: processes that make videos.
    """

    prompts: Sequence[str] = field(default_factory=lambda: demo_prompts()[:5])
    changes: Mapping[str, int | float | str] = field(default_factory=dict)
    truth: Mapping[str, int] = field(default_factory=dict)
    metrics: Sequence[str] = ("clip", "video_text", "fvd", "temporal")
    gate: Mapping[str, float] = field(default_factory=lambda: {"clip": 2.0, "temporal": 0.05})
    reference_clips: int = 16
    workers: int = 2


def run_demo(folder: Path, say: Say, plan: DemoPlan | None = None, *, progress: bool = True) -> Path:
    """Go from prompts to a report inside ``folder`` and return the report's path.

    What an earlier call has done is recognised and kept; so are the files of bench, ablation and gate, once written.

    Args:
        folder: receives database, videos, files and the report.
        say: told each step, and what came of it.
        plan: what to make; ``DemoPlan()`` if None.

    Raises:
        EvaluationError: the folder cannot be written, or a step fails in a way the user can mend.
    """
    plan = plan or DemoPlan()
    steps = _Steps(say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error
    url = f"sqlite:///{folder / 'magicvideo.db'}"
    with steps("database") as done:
        done(f"at revision {migrations.upgrade(url)}")
    reference = sprites_reference(folder / "reference", plan.reference_clips, progress=progress)
    _write_files(folder, plan, reference[0].parent if reference else None)
    _bench_ablate_compare(folder, steps, progress)
    database = open_database(url)
    try:
        with steps("blinded study") as done:
            done(_open_study(database, progress))
        with steps("published votes") as done:
            done(_import_votes(database))
        with steps(f"magicvideo report {folder}") as done:
            report = build_report(
                database, folders=[folder], vote_command="make arena", title="MagicVideo Arena: the demo"
            )
            write_text(folder / "report.html", to_html(report))
            write_text(folder / "report.json", report.to_json())
            done(report.headline)
    finally:
        database.close()
    return folder / "report.html"


def _bench_ablate_compare(folder: Path, steps: "_Steps", progress: bool) -> None:
    bench, ablation, gate = (folder / name for name in (BENCH, ABLATION, GATE))
    with steps(f"magicvideo bench run {bench}") as done:
        made = run_bench(bench, progress=progress)
        if failed := made.videos.count("failed"):
            raise EvaluationError(f"{failed} videos of {bench} failed, e.g. {'; '.join(made.notes[:1])}")
        done(f"{made.videos.made} videos made, {made.videos.reused} there already; {made.scored} measured")
    with steps(f"magicvideo ablate {ablation} --study {STUDY}") as done:
        result = run_ablation(ablation, study=STUDY, progress=progress)
        done(ablation_answer(result.to_dict()))
        done(result.cost.sentence())
    full, without = (_videos(ablation, name) for name in (FULL, WITHOUT_VFI))
    with steps(f"magicvideo compare {full} {without} --gate {gate}") as done:
        verdict = compare_places(full, without, read_gate(gate))
        done(f"exit status {verdict.exit_status}, {verdict.sentence()}")


def _videos(ablation: Path, name: str) -> Path:
    """Return the folder of a system's videos."""
    spec = read_ablation(ablation)
    workspace = Workspace.of(spec, systems_of(spec, arms_of(spec)), ablation)
    [system] = [system for system in workspace.built() if system.name == name]
    return Path(workspace.store_place) / Job.of(system, "", 0).folder


def _write_files(folder: Path, plan: DemoPlan, reference: Path | None) -> None:
    """Write the bench, the ablation and the gate, unless they are there: the user may have changed them."""
    pipeline = {"preset": "sprites"} | ({"changes": dict(plan.changes)} if plan.changes else {})
    common: dict[str, Any] = {"prompts": [{"texts": list(plan.prompts)}], "metrics": list(plan.metrics)}
    if reference is not None:
        common["reference"] = str(reference.relative_to(folder))
    common["engine"] = {"workers": plan.workers}
    bench = {
        "folder": ".",
        "systems": {FULL: {"magicvideo": pipeline}, "truth": {"sprites_truth": dict(plan.truth)}},
    }
    ablation = {"folder": ".", "base": pipeline, "leave_one_out": ["v2v", "vfi"], "factorial": ["v2v", "vfi"]}
    gate = {
        "metrics": {name: {"tolerance": tolerance} for name, tolerance in plan.gate.items()},
        "minimum_prompts": min(8, max(3, len(plan.prompts))),
    }
    contents = {
        BENCH: ("Our pipeline beside the ground truth: magicvideo bench run {}", bench | common),
        ABLATION: ("What V2V and VFI are worth, alone and together: magicvideo ablate {}", ablation | common),
        GATE: ("How much worse a metric may get: magicvideo compare BASE CANDIDATE --gate {}", gate),
    }
    for name, (comment, content) in contents.items():
        path = folder / name
        if not path.exists():
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
            write_text(path, f"# {comment.format(path)}\n{text}")


def _open_study(database: Database, progress: bool) -> str:
    with database.reading() as session:
        state = studies.study_status(session, STUDY).state
    if state == "draft":  # one that its owner has paused or closed stays so
        with tqdm(desc="blinded copies", unit="video", disable=not progress) as bar:

            def count(made: int, needed: int) -> None:
                bar.total = needed
                bar.update(made - bar.n)

            studies.open_study(database, STUDY, count)
    with database.reading() as session:
        status = studies.study_status(session, STUDY)
    return f"{STUDY} is {status.state}: {status.pairs} pairs, {status.votes} votes so far"


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
    """Say each step when it begins, and what came of it with the time it took."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.number = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        self.number += 1
        self.say(f"[{self.number}/{STEPS}] {name}")
        begun = time.monotonic()
        results: list[str] = []
        yield results.append
        taken = time.monotonic() - begun
        self.say("\n".join(f"      {result}" for result in results) + f" ({taken:.1f} s)")
