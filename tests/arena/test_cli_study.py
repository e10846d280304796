"""The commands `magicvideo db` and `magicvideo study`, from folders of clips to a report."""

import csv
import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import evaluation
from arena.assignment import lease
from arena.columns import now_utc
from arena.database import Database
from arena.errors import ArenaError, DatabaseError, LinkRefused
from arena.evaluators import register
from arena.voting import submit
from evaluation.cli import db, study
from evaluation.errors import EvaluationError

VOTES = Path(evaluation.__file__).parent / "data" / "votes"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a database that is not there yet, in an empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return f"sqlite:///{tmp_path / 'here' / 'study.db'}"


def _run(app, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _done(app, *arguments: object) -> str:
    result = _run(app, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_database_is_made_checked_copied_and_taken_back(url: str, tmp_path: Path) -> None:
    assert "is at revision" in _done(db.app, "upgrade", "--db", url)
    assert "as this program needs it" in _done(db.app, "check", "--db", url)
    assert "written" in _done(db.app, "backup", tmp_path / "copy.db", "--db", url)
    _done(db.app, "check", "--db", tmp_path / "copy.db")
    assert "base" in _done(db.app, "downgrade", "base", "--yes", "--db", url)
    assert isinstance(_run(db.app, "check", "--db", url).exception, DatabaseError)


def test_taking_a_database_back_asks_first(url: str) -> None:
    _done(db.app, "upgrade", "--db", url)
    assert _run(db.app, "downgrade", "base", "--db", url).exit_code == 1
    _done(db.app, "check", "--db", url)


def test_published_tables_go_from_file_to_report(url: str) -> None:
    table = VOTES / "magicvideo_v2_table1.csv"
    _done(study.app, "import", "counts", table, "--study", "paper", "--db", url)
    report = json.loads(_done(study.app, "report", "paper", "--json", "--db", url))
    assert [round(row["ratio"], 6) for row in report["comparisons"]] == [
        2.669165,
        2.679401,
        2.718924,
        1.782428,
        1.624019,
    ]
    text = _done(study.app, "report", "paper", "--db", url)
    assert "2.669" in text
    assert "30,500" in text
    listed = _done(study.app, "list", "--db", url)
    assert "paper" in listed
    assert "30600" in listed


def test_two_folders_become_a_study_and_votes_a_table(url: str, make_clip, tmp_path: Path) -> None:
    for number, system in enumerate(("ours", "rival")):
        for prompt in ("a dog", "a cat"):
            make_clip(f"{system}/{prompt}-0.mp4", frames=3, seed=number)
        _done(study.app, "import", "videos", tmp_path / system, "--system", system, "--db", url)
    created = _done(study.app, "create", "one", "--candidate", "ours", "--competitor", "rival", "--db", url)
    assert "2 pairs of 2 prompts, 2 votes wanted" in created
    assert "open" in _done(study.app, "open", "one", "--db", url)
    _, token = _done(study.app, "invite", "one", "--db", url).split()
    database = Database(url)
    _vote(database, token)
    database.close()
    status = json.loads(_done(study.app, "status", "one", "--json", "--db", url))
    assert (status["votes"], status["target_votes"]) == (2, 2)
    _done(study.app, "close", "one", "--db", url)
    _done(study.app, "export", "one", "--out", tmp_path / "votes.csv", "--db", url)
    with (tmp_path / "votes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["verdict"] for row in rows) == ["bad", "good"]  # same side twice: sides were balanced
    _done(study.app, "import", "votes", tmp_path / "votes.csv", "--study", "again", "--db", url)
    reports = [
        json.loads(_done(study.app, "report", name, "--json", "--db", url)) for name in ("one", "again")
    ]
    counts = [
        [row[key] for key in ("good", "same", "bad")] for report in reports for row in report["comparisons"]
    ]
    assert counts == [[1, 0, 1], [1, 0, 1]]


def _vote(database: Database, token: str) -> None:
    """Vote left on everything, as somebody who watched every clip would."""
    while (task := lease(database, token)) is not None:
        times = {"rt_ms": 5000, "watched_left_ms": 4000, "watched_right_ms": 4000}
        later = now_utc() + timedelta(seconds=5)
        submit(
            database,
            token=token,
            assignment=task.assignment,
            choice="left",
            client_token=task.left,
            now=later,
            **times,
        )


def test_a_study_of_two_folders_takes_one_command_to_draft(url: str, make_clip, tmp_path: Path) -> None:
    for number, system in enumerate(("ours", "rival")):
        for prompt in ("a dog", "a cat"):
            make_clip(f"{system}/{prompt}-0.mp4", frames=3, seed=number)
    folders = [f"--videos={system}={tmp_path / system}" for system in ("ours", "rival")]
    plan = tmp_path / "plan.yaml"
    plan.write_text("gold_share: 0.5\nconsent: I agree.\nfinish_code: ABC\n", encoding="utf-8")
    store = tmp_path / "media"
    options = ("--protocol", plan, "--preset", "paper", "--media-store", store, "--db", url)
    assert "2 pairs of 2 prompts, 122 votes wanted" in _done(study.app, "create", "one", *folders, *options)
    written = yaml.safe_load(_done(study.app, "protocol", "one", "--db", url))
    assert (written["candidate"], written["gold_share"], written["quota"]) == ("ours", 0.5, 500)
    plan.write_text(yaml.safe_dump(written | {"votes_per_pair": 2}), encoding="utf-8")
    again = ("create", "one", "--protocol", plan, "--db", url)
    assert "choose another name" in str(_run(study.app, *again).exception)
    assert "4 votes wanted" in _done(study.app, *again, "--replace")
    _done(study.app, "open", "one", "--media-store", store, "--db", url)
    assert len(list(store.rglob("*"))) > 4
    assert "choose another name" in str(_run(study.app, *again, "--seed", 5, "--replace").exception)
    assert "the log is whole" in _done(study.app, "audit", "--db", url)


def test_people_are_invited_by_link_judged_and_excluded(url: str, make_clip, tmp_path: Path) -> None:
    for number, system in enumerate(("ours", "rival")):
        make_clip(f"{system}/a dog-0.mp4", frames=3, seed=number)
    folders = [f"--videos={system}={tmp_path / system}" for system in ("ours", "rival")]
    _done(study.app, "create", "one", *folders, "--db", url)
    _done(study.app, "open", "one", "--db", url)
    invited = _done(
        study.app, "invite", "one", "--url", "https://arena.example.org/", "--days", 7, "--db", url
    )
    pseudonym, link = invited.split()
    assert link.startswith("https://arena.example.org/join/")
    database = Database(url)
    _vote(database, link.rpartition("/")[2])
    database.close()
    (person,) = map(json.loads, _done(study.app, "people", "one", "--db", url).splitlines())
    assert (person["pseudonym"], person["conduct"]["votes"]) == (pseudonym, 1)
    _done(study.app, "exclude", "one", pseudonym, "--reason", "asked to", "--db", url)
    assert "votes of excluded" in _done(study.app, "report", "one", "--db", url)
    _done(study.app, "readmit", "one", pseudonym, "--reason", "asked again", "--db", url)
    _done(study.app, "revoke", "one", pseudonym, "--db", url)
    assert "revoked already" in str(_run(study.app, "revoke", "one", pseudonym, "--db", url).exception)
    told = _done(study.app, "forget", "one", pseudonym, "--comments", "--db", url)
    assert f"{pseudonym} is forgotten" in told
    (person,) = map(json.loads, _done(study.app, "people", "one", "--db", url).splitlines())
    assert person["pseudonym"] == told.split()[-1]
    assert "the log is whole" in _done(study.app, "audit", "--db", url)


def test_a_code_lets_so_many_in(url: str, make_clip, tmp_path: Path) -> None:
    for number, system in enumerate(("ours", "rival")):
        make_clip(f"{system}/a dog-0.mp4", frames=3, seed=number)
    folders = [f"--videos={system}={tmp_path / system}" for system in ("ours", "rival")]
    _done(study.app, "create", "one", *folders, "--db", url)
    told = _done(study.app, "invite", "one", "--code", "blue harbour", "--count", 2, "--days", 3, "--db", url)
    assert "2 people may join study 'one'" in told
    database = Database(url)
    for _ in range(2):
        with database.session() as session:
            assert register(session, "blue harbour").pseudonym
    with database.session() as session, pytest.raises(LinkRefused, match="every place"):
        register(session, "blue harbour")
    database.close()


def test_a_sequential_study_says_where_it_stands(url: str, make_clip, tmp_path: Path) -> None:
    for number, system in enumerate(("ours", "rival")):
        for prompt in ("a dog", "a cat"):
            make_clip(f"{system}/{prompt}-0.mp4", frames=3, seed=number)
    folders = [f"--videos={system}={tmp_path / system}" for system in ("ours", "rival")]
    plan = tmp_path / "plan.yaml"
    plan.write_text("stopping: sequential\nassignment: adaptive\nequivalence: 1.1\n", encoding="utf-8")
    _done(study.app, "create", "one", *folders, "--protocol", plan, "--votes-per-pair", 3, "--db", url)
    _done(study.app, "open", "one", "--db", url)
    _, token = _done(study.app, "invite", "one", "--db", url).split()
    database = Database(url)
    _vote(database, token)
    database.close()
    said = "ours against rival is open after 1 finished evaluators (97.5 % interval 0.000 to no bound)"
    assert said in _done(study.app, "status", "one", "--db", url)
    assert said in _done(study.app, "report", "one", "--db", url)
    status = json.loads(_done(study.app, "status", "one", "--json", "--db", url))
    assert (status["stopped"], status["stopping"]["rule"]) == ([], "sequential")
    report = json.loads(_done(study.app, "report", "one", "--json", "--db", url))
    (row,) = report["stopping"]["comparisons"]
    assert (row["verdict"], row["evaluators"], row["interval"]) == ("open", 1, [0.0, None])
    assert report["stopping"]["assignment"] == "adaptive"


def test_nothing_is_written_where_the_command_is_run(url: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _done(study.app, "import", "counts", VOTES / "magicvideo_v2_table1.csv", "--study", "paper", "--db", url)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_failures_are_sentences(url: str, tmp_path: Path) -> None:
    missing = _run(study.app, "report", "none", "--db", url)
    assert isinstance(missing.exception, DatabaseError)
    assert "magicvideo db upgrade" in str(missing.exception)
    _done(db.app, "upgrade", "--db", url)
    assert "no studies yet" in _done(study.app, "list", "--db", url)
    for arguments in (("report", "none"), ("open", "none"), ("export", "none", "--out", tmp_path / "x.csv")):
        failed = _run(study.app, *arguments, "--db", url)
        assert isinstance(failed.exception, ArenaError)
        assert "there is no study 'none'" in str(failed.exception)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("votes_per_pairs: 3", "unknown key 'votes_per_pairs'; allowed here: candidate, competitors"),
        ("votes_per_pair: many", "votes_per_pair: input should be a valid integer"),
    ],
)
def test_a_wrong_protocol_is_refused_with_its_line(
    url: str, tmp_path: Path, line: str, sentence: str
) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(f"candidate: ours\ncompetitors: [theirs]\n{line}\n")
    refused = _run(study.app, "create", "first", "--protocol", path, "--db", url)
    assert isinstance(refused.exception, EvaluationError)
    assert str(refused.exception).startswith(f"{path}, line 3: {sentence}")


def test_wrong_use_ends_with_status_2(url: str) -> None:
    table = VOTES / "genai_bench_video_votes.csv"
    assert _run(study.app, "import", "genai-bench", table, "--study", "g", "--db", url).exit_code == 2
    assert (
        _run(
            study.app, "import", "genai-bench", table, "--study", "g", "--both-bad", "x", "--db", url
        ).exit_code
        == 2
    )


def test_a_plan_says_what_buys_power() -> None:
    options = ("--ratio", 1.2, "--ties", 0.2, "--evaluators", 61, "--prompts", 100)
    said = _done(study.app, "plan", *options)
    for words in ("0.786", "0.905", "0.886", "buy almost nothing", "66 evaluators with 100 prompts"):
        assert words in said
    found = json.loads(_done(study.app, "plan", *options, "--json"))
    assert found["options"][0]["design_effect"] == pytest.approx(11.95)
    assert (found["votes_if_independent"], found["evaluators_needed"]) == (530, 66)
    refused = _run(study.app, "plan", "--ratio", 6, "--ties", 0.2)
    assert refused.exit_code == 2
    assert "between 0.2 and 5" in " ".join(refused.output.split())
