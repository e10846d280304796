"""One report in every form, from databases and run folders."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from arena import catalogue, exchange, studies
from arena.database import Database, open_database
from arena.protocol import Protocol
from evaluation.ablation.analysis import analyse
from evaluation.ablation.arms import arms_of
from evaluation.ablation.cost import cost_of
from evaluation.ablation.outputs import RESULT, write_result
from evaluation.ablation.specification import AblationSpec
from evaluation.cli.main import app
from evaluation.clips import write_clip
from evaluation.engine.record import VideoRecord
from evaluation.errors import EvaluationError
from evaluation.report.blocks import Cell, Table
from evaluation.report.build import build_report, report_of
from evaluation.report.costs import system_costs
from evaluation.report.frames import CLIP_BYTES, CLIP_HEIGHT, playable
from evaluation.report.html import to_html
from evaluation.report.latex import to_latex
from evaluation.report.markdown import table_lines, to_markdown
from evaluation.report.model import Report
from evaluation.report.sources import find_sources
from evaluation.report.write import write_everything
from evaluation.runs import make_videos
from evaluation.systems.sprites_truth import SpritesTruth

PROMPTS = tuple(
    f"a large {colour} star spinning on a sunset background" for colour in ("red", "green", "blue")
)
VALUES = {
    "full": [5.0, 6.0, 7.5],
    "-v2v": [4.0, 5.5, 6.0],
    "-vfi": [5.0, 6.1, 7.4],
    "-v2v-vfi": [3.0, 4.0, 6.0],
}


def with_videos(folder: Path, names: tuple[str, ...] = tuple(VALUES)) -> Database:
    """Fill a run's folder with videos and scores of ``names``."""
    database = open_database(f"sqlite:///{folder / 'magicvideo.db'}", create=True)
    systems = [SpritesTruth(size=32, num_frames=6, name=name) for name in names]
    make_videos(database, systems, PROMPTS, folder=folder / "videos", progress=False)
    with database.session() as session:
        for name in names:
            for video, value in zip(
                catalogue.find_videos(session, system=name), VALUES.get(name, [1.0] * 3), strict=True
            ):
                catalogue.add_score(session, metric="clip", signature="clip|1", value=value, video=video)
    return database


def ablate(folder: Path, database: Database, study: str | None = None) -> None:
    """Leave in ``folder`` what an ablation leaves."""
    spec = AblationSpec.model_validate(
        {"prompts": [{"texts": list(PROMPTS)}], "metrics": ["clip"], "factorial": ["v2v", "vfi"]}
    )
    with database.reading() as session:
        rows = catalogue.scores(session)
    result = analyse(spec, arms_of(spec), rows, cost_of([]), prompts=3)
    (folder / "examples").mkdir()
    write_clip(folder / "examples" / "x.mp4", np.zeros((4, 32, 64, 3), np.uint8), Fraction(4))
    example = {
        "arm": "-v2v",
        "metric": "clip",
        "which": "worst",
        "prompt": PROMPTS[0],
        "seed": 0,
        "advantage": 0.5,
    }
    shown = ({**example, "file": "examples/x.mp4"},)
    changed = {"examples": shown, "study": study, "reproduce": {"command": "magicvideo ablate a.yaml"}}
    write_result(folder, type(result)(**{**vars(result), **changed}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    folder.mkdir()
    database = with_videos(folder)
    with database.session() as session:
        studies.create_study(session, "stages", Protocol(candidate="full", competitors=("-v2v", "-vfi")))
    ablate(folder, database, study="stages")
    database.close()
    return folder


@pytest.fixture
def ablated(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def report_on(*places: Path) -> Report:
    return report_of(find_sources([str(place) for place in places], None))


def test_ablation_stands_in_the_report_as_automatic(ablated: Path) -> None:
    report = report_on(ablated)
    [section] = report.ablations
    assert report.headline == section.answer
    assert section.answer.startswith(
        "Automatic, no votes: against full, clip (cosine x 100) changes by −1.83 ["
    )
    page = to_html(report)
    for expected in (
        "Shapley share",
        "v2v x vfi",
        "3/0/0",
        "Worst, median and best clips",
        "magicvideo ablate a.yaml",
    ):
        assert expected in page
    assert page.count("<video") == len(PROMPTS) * len(VALUES) + 1
    assert not any(item.competitor == "-v2v" for item in report.automatic)  # said by the ablation's table
    assert "nobody voted" in page
    assert "human votes" not in page


def test_votes_on_an_ablation_stand_in_its_table_as_they_are_now(ablated: Path, tmp_path: Path) -> None:
    votes = tmp_path / "votes.csv"
    rows = [f"e{person},{prompt},full,-v2v,good" for prompt in PROMPTS for person in range(4)]
    rows += [f"e9,{prompt},full,-v2v,bad" for prompt in PROMPTS]
    votes.write_text("evaluator,prompt,candidate,competitor,verdict\n" + "\n".join(rows) + "\n")
    database = open_database(f"sqlite:///{ablated / 'magicvideo.db'}")
    with database.session() as session:
        exchange.import_votes(session, votes, "elsewhere")
    database.close()
    path = ablated / RESULT
    path.write_text(path.read_text("utf-8").replace('"study": "stages"', '"study": "elsewhere"'), "utf-8")
    report = report_on(ablated)
    people = {row["arm"]: row["human"] for row in report.ablations[0].result["rows"]}
    assert (people["-v2v"]["good"], people["-v2v"]["bad"], people["-v2v"]["ratio"]) == (12, 3, 4.0)
    assert people["-vfi"] is None
    assert "(G+S)/(B+S) = 4.00" in report.headline
    [agreed] = report.agreement
    assert (agreed.metric, agreed.measures["pairs"]) == ("clip", 15)
    markdown = to_markdown(report)
    assert "(G+S)/(B+S), people" in markdown
    assert "| no votes yet |" in markdown
    assert "Metrics beside votes" in markdown


def test_several_places_make_one_report_and_keep_their_names(ablated: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with_videos(other, ("full",)).close()
    report = report_on(ablated, other)
    assert {item.system for item in report.metrics} == {*(f"run: {name}" for name in VALUES), "other: full"}
    assert all(item.comparable for item in report.metrics)
    assert [study.name for study in report.studies] == ["run: stages"]
    assert len(report.provenance["sources"]) == 2
    json.loads(report.to_json())


def test_every_form_is_written_and_can_be_read(ablated: Path, tmp_path: Path) -> None:
    paths = write_everything(tmp_path / "all", report_on(ablated))
    names = {path.relative_to(tmp_path / "all").as_posix() for path in paths}
    assert {"report.html", "report.md", "report.json", "tables/metrics.csv", "tables/metrics.tex"} <= names
    for path in paths:
        assert path.stat().st_size > 0
        if path.suffix == ".csv":
            rows = list(csv.reader(path.read_text("utf-8").splitlines()))
            assert len({len(row) for row in rows}) == 1
        elif path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".tex":
            text = path.read_text("utf-8")
            assert text.isascii()
            assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert "figures/ablation-run.png" in names
    assert (tmp_path / "all" / "figures" / "ablation-run.png").read_bytes().startswith(b"\x89PNG")
    assert "](figures/ablation-run.png)" in (tmp_path / "all" / "report.md").read_text("utf-8")
    arms = list(csv.DictReader((tmp_path / "all/tables/ablation-run.csv").read_text("utf-8").splitlines()))
    assert {row["arm"] for row in arms} == {"-v2v", "-vfi", "-v2v-vfi"}
    assert float(next(row for row in arms if row["arm"] == "-v2v")["advantage_mean"]) == pytest.approx(1.0)


def test_text_of_users_is_no_markup_in_any_form() -> None:
    evil = "a|b <i>x</i> `c` *d* _e_ [f](g) \\input{h} 50% #1 $x$ a_b"
    table = Table("x", evil, ("head", evil), ((Cell(evil), Cell("1", "key")),), ())
    markdown = "\n".join(table_lines(table))
    assert "<i>" not in markdown
    assert "a\\|b" in markdown
    assert "\\`c\\` \\*d\\* \\_e\\_ [f]\\(g)" in markdown
    assert "a_b" in markdown
    latex = to_latex(table)
    assert r"\textbackslash{}input\{h\} 50\% \#1 \$x\$ a\_b" in latex
    assert r"\textbf{1}" in latex
    assert r"\begin{tabular}{lr}" in latex


def test_protocol_of_a_study_lists_what_nothing_states(ablated: Path, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{ablated / 'magicvideo.db'}")
    table = tmp_path / "t.csv"
    table.write_text("candidate,competitor,good,same,bad\na,b,5,1,2\n")
    with database.session() as session:
        exchange.import_counts(session, table, "table", stated_evaluators=61, stated_comparisons=500)
    report = build_report(database)
    database.close()
    collected, imported = ({item.name: item.value for item in study.protocol} for study in report.studies)
    assert collected["question"] == "Which video is better overall?"
    assert collected["how evaluators were found"] is None
    assert imported["evaluators who voted"] == "61 stated"
    assert imported["sides"] is imported["question"] is None
    assert "Protocol fields that nothing states: question, instructions" in to_markdown(report)


def test_cost_adds_up_records_and_leaves_reused_stages_out() -> None:
    stage = {"stage": "t2i", "seconds": 4.0, "reused": False, "peak_memory": 2**30}
    common = {"config_digest": "c", "prompt": "p"}
    records = [
        VideoRecord(
            system="a", seed=0, outcome="made", seconds=5, stages=[stage], cost=0.5, currency="USD", **common
        ),
        VideoRecord(
            system="a", seed=1, outcome="made", seconds=1, stages=[stage | {"reused": True}], **common
        ),
        VideoRecord(system="a", seed=2, outcome="refused", reason="moderation", **common),
    ]
    [cost] = system_costs(records)
    assert (cost.outcomes, cost.total_seconds, cost.median_seconds) == ({"made": 2, "refused": 1}, 6, 3)
    assert (cost.stages, cost.peak_memory, cost.cost) == ({"t2i": 4.0}, 2**30, {"USD": 0.5})


def test_large_clips_are_made_smaller_and_small_ones_kept(tmp_path: Path) -> None:
    import base64
    import io

    import av

    noise = np.random.default_rng(0).integers(0, 255, (12, 360, 480, 3), np.uint8)
    write_clip(tmp_path / "large.mp4", noise, Fraction(12))
    data = (tmp_path / "large.mp4").read_bytes()
    assert len(data) > CLIP_BYTES
    smaller = base64.b64decode(playable(data, "x").partition(",")[2])
    with av.open(io.BytesIO(smaller)) as container:
        frames = list(container.decode(video=0))
        assert (len(frames), frames[0].height, frames[0].width) == (12, CLIP_HEIGHT, 342)
        assert container.streams.video[0].average_rate == 12
    assert len(smaller) < len(data)
    write_clip(tmp_path / "small.mp4", noise[:2, :32, :32], Fraction(12))
    small = (tmp_path / "small.mp4").read_bytes()
    assert base64.b64decode(playable(small, "x").partition(",")[2]) == small
    with pytest.raises(EvaluationError, match="cannot decode the stored video of x"):
        playable(b"no video", "x")


def test_places_that_are_nothing_are_one_sentence(ablated: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, words in (("absent", "there is no"), ("empty", "no folder of a bench or an ablation")):
        with pytest.raises(EvaluationError, match=words):
            find_sources([str(tmp_path / place)], None)
    (ablated / RESULT).write_text("{}")
    with pytest.raises(EvaluationError, match="run the ablation again"):
        report_on(ablated)


def test_command_takes_folders_and_writes_what_is_asked(ablated: Path, tmp_path: Path) -> None:
    out, markdown, everything = tmp_path / "r.html", tmp_path / "r.md", tmp_path / "all"
    options = ["--out", str(out), "--markdown", str(markdown), "--all", str(everything)]
    found = CliRunner().invoke(app, ["report", str(ablated), *options])
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("Automatic, no votes")
    assert all(path.exists() for path in (out, markdown, everything / "report.json"))
