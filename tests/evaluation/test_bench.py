import random
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from arena import media
from arena.database import open_database
from arena.models import Media
from evaluation.bench.manifest import Manifest
from evaluation.bench.run import locked, run_bench
from evaluation.bench.specification import TEMPLATE, read_bench
from evaluation.bench.status import bench_status
from evaluation.cli.bench import app
from evaluation.clips import PARTIAL
from evaluation.errors import EvaluationError

TINY = "{size: 32, num_frames: 6}"
BEGINNING = 15  # uses of files in a run that has nothing to do


def truth(*names: str) -> str:
    return "".join(f"  {name}: {{sprites_truth: {TINY}}}\n" for name in names)


def test_bench_generates_measures_and_says_how(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, truth("a", "b"), count=2, more="metrics: [temporal]\n")
    result = run_bench(file, progress=False)
    assert (result.videos.made, result.videos.reused, result.scored) == (4, 0, 4)
    [entry] = Manifest(tmp_path / "run").runs
    assert (entry["state"], entry["outcomes"], entry["seeds"]) == ("finished", {"made": 4}, [0])
    assert set(entry["systems"]) == {"a", "b"}
    assert {
        "git_commit",
        "git_dirty",
        "packages",
        "config_digest",
        "prompt_digest",
        "devices",
    } <= entry.keys()
    again = run_bench(file, progress=False)
    assert (again.videos.made, again.videos.reused, again.scored) == (0, 4, 0)
    status = bench_status(file)
    assert [(row.outcomes, row.to_do, row.in_database, row.scored) for row in status.systems] == [
        ({"made": 2}, 0, 2, 2)
    ] * 2
    assert len(status.runs) == 2


def test_additions_are_the_difference(tmp_path: Path, bench: Any, contents: Any) -> None:
    run_bench(bench(tmp_path, truth("a"), count=2), progress=False)
    before = contents(tmp_path)["videos"]
    result = run_bench(bench(tmp_path, truth("a", "b"), count=3, seeds="[0, 1]"), progress=False)
    assert (result.videos.made, result.videos.reused) == (10, 2)
    assert set(before) < set(contents(tmp_path)["videos"])


def test_crashing_and_failing_systems_leave_the_others_alone(
    tmp_path: Path, bench: Any, prompts: Any
) -> None:
    systems = truth("a") + "".join(
        f"  {name}: {{python: {{target: 'model.py:{name}'}}}}\n" for name in ("crash", "fail")
    )
    videos = run_bench(bench(tmp_path, systems, count=5, workers=2), progress=False).videos
    made = {(record.system, record.prompt) for record in videos.outcomes if record.outcome == "made"}
    failed = {
        name: [r for r in videos.outcomes if (r.system, r.outcome) == (name, "failed")]
        for name in ("crash", "fail")
    }
    assert made == {("a", prompt) for prompt in prompts(5)} | {("crash", prompt) for prompt in prompts(5)[1:]}
    [crash] = failed["crash"]
    assert (crash.reason, crash.attempts) == ("its process was ended by SIGSEGV", 2)
    assert len(failed["fail"]) == 5
    assert [
        str(record.reason).startswith("not tried: fail failed 3 times") for record in failed["fail"]
    ].count(True) >= 1


def test_workers_share_the_cores(tmp_path: Path, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(7))
    told = tmp_path / "told"
    systems = f"  t: {{python: {{target: 'model.py:threads', options: {{told: {told}}}}}}}\n"
    run_bench(bench(tmp_path, systems, count=1, workers=2), progress=False)
    assert told.read_text() == "3"


def test_worker_that_drew_a_progress_bar_leaves_nothing_behind(
    tmp_path: Path, bench: Any, start: Any
) -> None:
    file = bench(tmp_path, "  b: {python: {target: 'model.py:bar'}}\n", count=1)
    with start(file, stderr=subprocess.PIPE) as process:
        _, said = process.communicate()
    assert process.returncode == 0
    assert "leaked" not in said


def test_hanging_system_is_ended(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, "  hang: {python: {target: 'model.py:hang'}}\n", count=1)
    file.write_text(file.read_text().replace("timeout: 1800", "timeout: 1, crashes: 1"))
    [record] = run_bench(file, progress=False).videos.outcomes
    assert record.reason == "its process took longer than 1 s"


def test_failure_that_passes_is_tried_again_and_counted(tmp_path: Path, bench: Any) -> None:
    mark = tmp_path / "mark"
    systems = f"  f: {{python: {{target: 'model.py:flaky', options: {{mark: {mark}}}}}}}\n"
    [record] = run_bench(bench(tmp_path, systems, count=1), progress=False).videos.outcomes
    assert (record.outcome, record.attempts) == ("made", 2)


def test_other_config_under_the_same_name_is_refused_and_changes_nothing(
    tmp_path: Path, bench: Any, contents: Any, files_of: Any
) -> None:
    run_bench(bench(tmp_path, truth("a"), count=1), progress=False)
    before = contents(tmp_path), files_of(tmp_path)
    other = bench(tmp_path, "  a: {sprites_truth: {size: 48, num_frames: 6}}\n", count=1)
    with pytest.raises(EvaluationError, match="two configs do not mix"):
        run_bench(other, progress=False)
    assert (contents(tmp_path), files_of(tmp_path)) == before
    assert Manifest(tmp_path / "run").runs[-1]["state"] == "failed"


def test_imported_videos_may_come_later_and_do_not_stop_the_others(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, truth("a") + "  late: {imported: {folder: late}}\n", count=2)
    first = run_bench(file, progress=False)
    assert (first.videos.made, first.videos.count("failed")) == (2, 2)
    assert any("there is no folder" in note for note in first.notes)
    (tmp_path / "late").mkdir()
    [made, _] = sorted((tmp_path / "run" / "videos").glob("a-*/*.mp4"))
    (tmp_path / "late" / made.name).write_bytes(made.read_bytes())
    (tmp_path / "late" / "other.mp4").write_bytes(made.read_bytes())
    second = run_bench(file, progress=False)
    assert (second.videos.made, second.videos.count("missing")) == (1, 1)
    assert any(
        note.startswith("late: 1 videos matched; 1 missing") and "1 extra (e.g. other.mp4)" in note
        for note in second.notes
    )


def test_two_runs_in_one_folder_are_kept_apart(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, truth("a"), count=1)
    with locked(tmp_path / "run"), pytest.raises(EvaluationError, match="another run is at work"):
        run_bench(file, progress=False)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "seeds: [0]",
            "seedz: [0]",
            r"line 6: unknown key 'seedz'; allowed here: folder, database, store, copies, prompts, seeds",
        ),
        ("size: 32", "sise: 32", r"line 3: unknown key 'systems.a.sprites_truth.sise'; allowed here: size"),
        ("seeds: [0]", "seeds: [0, 0]", "line 6: seeds: a seed is listed twice"),
        ("sprites_truth: {size: 32, num_frames: 6}", "magicvideo: {}, sprites_truth: {}", "exactly one of"),
        ("workers: 1", "workers: 0", "engine.workers: input should be greater than or equal to 1, got 0"),
        ("seeds: [0]", "metrics: [fvd]", "needs reference, a folder of real videos"),
        ("seeds: [0]", "metrics: [clipp]", "unknown metric 'clipp'; known: .*, clip,"),
        ("seeds: [0]", "seeds: []", r"line 6: seeds: give at least 1$"),
        ("seeds: [0]", "reference: 3", r"line 6: reference: expected a path, got 3$"),
        ("seeds: [0]", "store: foo://x", "line 6: store: no such kind of address: foo; give a folder"),
        (
            "seeds: [0]",
            "database: mysql://u:secret@h/d",
            r"line 6: database: mysql://u:\*\*\*@h/d is neither .*\.\.\.$",
        ),
        (
            "seeds: [0]",
            "scoring: {temporal_sampling: 'fps:x'}",
            r"line 6: scoring.temporal_sampling: unknown sampling",
        ),
        ("workers: 1", "devices: [gpu]", r"engine.devices.0: unknown device; known: cpu, mps, cuda"),
        (
            "sprites_truth: {size: 32, num_frames: 6}",
            "magicvideo: {preset: spritez}",
            r"line 3: systems.a.magicvideo.preset: unknown preset 'spritez'; known: sprites, paper$",
        ),
        (
            "sprites_truth: {size: 32, num_frames: 6}",
            "magicvideo: {changes: {v2v.strength: 3}}",
            r"line 3: systems.a.magicvideo.changes: v2v.strength must be a number from 0 to 1, got 3$",
        ),
        ("sprites_truth:", "diffusers: {pipeline: WanPipeline, frames: 80}, sprites_truth:", "take 77 or 81"),
    ],
)
def test_bad_bench_file_names_line_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, sentence: str, bench: Any
) -> None:
    file = bench(tmp_path, truth("a"))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(EvaluationError, match=sentence):
        read_bench(file)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "sprites_truth: {size: 32, num_frames: 6}",
            "card: gen-2",
            r"line 3: systems.a: .* nothing that can run",
        ),
        (
            "prompts:\n",
            "prompts:\n  - file: gone.txt\n",
            r"line 5: prompts.0: cannot read prompts from .*gone.txt",
        ),
        (
            "prompts:\n",
            "prompts:\n  - {suite: sprites, sample: 999}\n",
            "line 5: prompts.0: cannot draw 999 prompts",
        ),
        ("seeds: [0]", "scoring: {clip_model: nope}\nmetrics: [clip]", "line 6: scoring: .*nope"),
    ],
)
def test_what_only_loading_shows_names_the_line_too_and_nothing_is_made(
    tmp_path: Path, old: str, new: str, sentence: str, bench: Any
) -> None:
    file = bench(tmp_path, truth("a"))
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(EvaluationError, match=rf"bench.yaml, {sentence}"):
        run_bench(file, progress=False)
    assert not list(tmp_path.rglob("*.mp4"))


def test_template_is_a_valid_bench_and_is_not_overwritten(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "mine.yaml"
    assert runner.invoke(app, ["init", str(file)]).exit_code == 0
    assert set(read_bench(file).systems) == {"sprites:full", "sprites:-v2v", "truth"}
    uncommented = "\n".join(
        line.replace("  # ", "  ", 1) if line.lstrip().startswith("# ") and line.startswith("  ") else line
        for line in TEMPLATE.format(name="x").splitlines()
    )
    file.write_text(uncommented.replace("ray: auto", "ray: local"))
    assert {"cogvideox", "animatediff", "mine", "notebook", "gen-2", "vendor"} < set(read_bench(file).systems)
    assert isinstance(runner.invoke(app, ["init", str(file)]).exception, EvaluationError)


def test_command_line_reports_and_fails_on_failed_videos(tmp_path: Path, bench: Any) -> None:
    file = bench(tmp_path, "  f: {python: {target: 'model.py:fail'}}\n", count=1)
    result = CliRunner().invoke(app, ["run", str(file), "-q"])
    assert result.exit_code == 1
    assert "f: 1 videos failed, e.g. RuntimeError: out of memory" in result.output
    shown = CliRunner().invoke(app, ["status", str(file)]).output
    assert "f: 1 failed of 1" in shown


@pytest.fixture
def check_kills(tmp_path: Path, bench: Any, contents: Any, files_of: Any, killer: Any) -> Any:
    """Kill a bench of two systems at random points, then compare with an undisturbed one; return the kills that met."""

    def check(
        *,
        count: int,
        kills: int,
        metrics: str = "metrics: [temporal]\n",
        more: str = "",
        url: str | None = None,
        files: Any = None,
    ) -> int:
        calm, killed = tmp_path / "calm", tmp_path / "killed"
        systems = truth("a", "b")
        calm_file = bench(calm, systems, count=count, more=metrics)
        killer(calm_file)
        file = bench(killed, systems, count=count, more=metrics + more)
        files = files or partial(files_of, killed)
        rng = random.Random(7)
        # A run looks for every record first; kills come then and while videos are made and measured.
        uses = killer.uses(calm_file)
        most = min(BEGINNING + 2 * count + 4 * uses // kills, uses - 1)
        met = sum(killer(file, rng.randint(1, most), rng.uniform(0, 0.05)) for _ in range(kills))
        killer.wait_for_workers()
        run_bench(file, progress=False)
        assert contents(killed, url) == contents(calm)
        assert files() == files_of(calm)
        assert len(files()) == 4 * count
        assert not list(killed.rglob(PARTIAL)) + list((killed / "run").rglob("*.part"))
        return met

    return check


def test_bench_killed_at_random_points_ends_like_an_undisturbed_one(check_kills: Any) -> None:
    assert check_kills(count=4, kills=2) >= 1


@pytest.mark.slow
def test_bench_of_40_videos_killed_at_20_random_points(check_kills: Any) -> None:
    assert check_kills(count=20, kills=24) >= 15


def _shared(s3: Any, url: str) -> dict[str, Any]:
    return {
        "more": f"store: {s3.place}\ndatabase: {url}\ncopies: false\n",
        "url": url,
        "files": s3.files,
    }


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_bench_in_s3_and_postgresql_killed_ends_like_an_undisturbed_one_on_disk(
    check_kills: Any, s3: Any, database_url: str
) -> None:
    assert check_kills(count=3, kills=1, metrics="", **_shared(s3, database_url)) == 1
    database = open_database(database_url)
    with database.reading() as session:
        for row in session.scalars(select(Media)):
            assert row.data is None
            assert str(row.url).startswith(s3.place)
            assert len(media.read(session, row.sha256)) == row.byte_size  # read checks the sha256
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_bench_of_40_videos_in_s3_and_postgresql_killed_at_10_random_points(
    check_kills: Any, s3: Any, database_url: str
) -> None:
    assert check_kills(count=20, kills=10, **_shared(s3, database_url)) >= 5
