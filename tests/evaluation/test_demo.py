import json
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import func, select

from arena.database import Database, open_database
from arena.models import Evaluator, ImportedVote, Pair, Score, Video, Vote
from arena.studies import close_study, get_study
from evaluation.demo import GENAI_BENCH, STUDY, TABLE_1, DemoPlan, run_demo
from evaluation.errors import EvaluationError
from evaluation.systems.sprites_truth import SpritesTruth

PROMPTS = (
    "a large red star moving right on a black background",
    "a large green circle growing on a snow background",
)


def small(name: str) -> SpritesTruth:
    return SpritesTruth(size=64, num_frames=6, fps=Fraction(10), name=name)


def plan() -> DemoPlan:
    return DemoPlan(
        systems=(small("ours"), small("theirs")),
        bounds=(small("truth"),),
        prompts=PROMPTS,
        metrics=("temporal",),
        reference_clips=2,
    )


def counts(database: Database) -> dict[str, int | None]:
    with database.reading() as session:
        tables = (Video, Score, Pair, ImportedVote, Vote, Evaluator)
        return {
            table.__tablename__: session.scalar(select(func.count()).select_from(table)) for table in tables
        }


def test_demo_goes_from_prompts_to_a_report_and_simulates_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    report = run_demo(tmp_path / "demo", said.append, plan(), progress=False)
    assert [line[:5] for line in said] == [f"[{step}/6]" for step in range(1, 7)]
    assert "6 made" in said[1]
    document = json.loads(report.with_suffix(".json").read_text("utf-8"))
    assert {study["name"]: study["votes"] for study in document["studies"]} == {
        STUDY: 0,
        TABLE_1: 30_600,
        GENAI_BENCH: 1_069,
    }
    assert "vote with make arena" in document["studies"][0]["answer"]
    database = open_database(f"sqlite:///{tmp_path / 'demo' / 'magicvideo.db'}")
    found = counts(database)
    assert (found["videos"], found["pairs"], found["imported_votes"]) == (6, 2, 1_069)
    assert (found["votes"], found["evaluators"]) == (0, 0)
    with database.reading() as session:
        assert get_study(session, STUDY).state == "open"
        assert set(session.scalars(select(ImportedVote.origin))) == {"human"}
    database.close()


def test_interrupted_demo_ends_like_an_undisturbed_one_and_then_does_nothing(tmp_path: Path) -> None:
    for step in range(1, 6):

        def stop(line: str, step: int = step) -> None:
            if line.startswith(f"[{step}/"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "stopped", stop, plan(), progress=False)
    said: list[str] = []
    run_demo(tmp_path / "stopped", said.append, plan(), progress=False)
    assert "0 made, 6 there already" in said[1]
    assert "0 videos scored, 6 there already" in said[2]
    run_demo(tmp_path / "calm", [].append, plan(), progress=False)
    ends = []
    for name in ("stopped", "calm"):
        database = open_database(f"sqlite:///{tmp_path / name / 'magicvideo.db'}")
        ends.append(counts(database))
        database.close()
    assert ends[0] == ends[1]


def test_study_its_owner_has_closed_stays_closed(tmp_path: Path) -> None:
    run_demo(tmp_path, [].append, plan(), progress=False)
    database = open_database(f"sqlite:///{tmp_path / 'magicvideo.db'}")
    close_study(database, STUDY)
    database.close()
    said: list[str] = []
    run_demo(tmp_path, said.append, plan(), progress=False)
    assert "is closed" in said[3]


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match="cannot make the folder"):
        run_demo(tmp_path / "file" / "demo", [].append, plan(), progress=False)
