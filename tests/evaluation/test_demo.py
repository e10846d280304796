import json
from pathlib import Path

import pytest
import yaml
from sqlalchemy import func, select

from arena.database import Database, open_database
from arena.models import Evaluator, ImportedVote, Pair, Score, Video, Vote
from arena.studies import close_study, get_study
from evaluation.demo import BENCH, GENAI_BENCH, STEPS, STUDY, TABLE_1, DemoPlan, run_demo
from evaluation.errors import EvaluationError

PLAN = DemoPlan(
    prompts=(
        "a large red star moving right on a black background",
        "a large green circle growing on a snow background",
        "a large blue cross moving up on a grey background",
    ),
    changes={
        "t2i.size": 48,
        "t2i.num_inference_steps": 1,
        "i2v.size": 32,
        "i2v.num_frames": 3,
        "i2v.num_inference_steps": 1,
        "v2v.size": 48,
        "v2v.num_inference_steps": 2,
        "v2v.strength": 0.5,
    },
    truth={"size": 48, "num_frames": 6, "fps": 10},
    metrics=("temporal",),
    gate={"temporal": 0.05},
    reference_clips=0,
    workers=1,
)
ARMS = ("full", "truth", "-v2v", "-vfi", "-v2v-vfi")


def opened(folder: Path) -> Database:
    return open_database(f"sqlite:///{folder / 'magicvideo.db'}")


def counts(folder: Path) -> dict[str, int | None]:
    database = opened(folder)
    with database.reading() as session:
        tables = (Video, Score, Pair, ImportedVote, Vote, Evaluator)
        found = {
            table.__tablename__: session.scalar(select(func.count()).select_from(table)) for table in tables
        }
    database.close()
    return found


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, said = tmp_path_factory.mktemp("calm") / "demo", list[str]()
    run_demo(folder, said.append, PLAN, progress=False)
    return folder, said


@pytest.mark.slow
def test_demo_benches_ablates_compares_and_simulates_nobody(calm: tuple[Path, list[str]]) -> None:
    folder, said = calm
    assert [line[:5] for line in said[::2]] == [f"[{step}/{STEPS}]" for step in range(1, STEPS + 1)]
    for command in ("bench run", "ablate", "compare", "report"):
        assert any(f"magicvideo {command} " in line for line in said[::2])
    assert "6 videos made, 0 there already; 6 measured" in said[3]
    assert "which saved" in said[5]
    assert "exit status" in said[7]
    document = json.loads((folder / "report.json").read_text("utf-8"))
    assert {study["name"]: study["votes"] for study in document["studies"]} == {
        STUDY: 0,
        TABLE_1: 30_600,
        GENAI_BENCH: 1_069,
    }
    [ablation] = document["ablations"]
    assert {row["arm"] for row in ablation["result"]["rows"]} == set(ARMS[2:])
    assert {cost["system"] for cost in document["costs"]} == set(ARMS)
    found = counts(folder)
    assert (found["videos"], found["pairs"], found["imported_votes"]) == (15, 9, 1_069)
    assert (found["votes"], found["evaluators"]) == (0, 0)
    database = opened(folder)
    with database.reading() as session:
        assert get_study(session, STUDY).state == "open"
        assert set(session.scalars(select(ImportedVote.origin))) == {"human"}
    database.close()


@pytest.mark.slow
def test_second_demo_makes_nothing_and_leaves_the_owners_changes(calm: tuple[Path, list[str]]) -> None:
    folder, _ = calm
    before = counts(folder)
    database = opened(folder)
    close_study(database, STUDY)
    database.close()
    bench = yaml.safe_load((folder / BENCH).read_text("utf-8"))
    bench["systems"]["truth-again"] = bench["systems"]["truth"]
    (folder / BENCH).write_text(yaml.safe_dump(bench), "utf-8")
    said: list[str] = []
    run_demo(folder, said.append, PLAN, progress=False)
    assert "3 videos made, 6 there already; 3 measured" in said[3]
    assert "is closed" in said[9]
    assert (counts(folder)["videos"] or 0) - (before["videos"] or 0) == 3


@pytest.mark.slow
def test_interrupted_demo_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):

        def stop(line: str, step: int = step) -> None:
            if line.startswith(f"[{step}/"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path, stop, PLAN, progress=False)
    run_demo(tmp_path, [].append, PLAN, progress=False)
    undisturbed = tmp_path / "calm"
    run_demo(undisturbed, [].append, PLAN, progress=False)
    assert counts(tmp_path) == counts(undisturbed)


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match="cannot make the folder"):
        run_demo(tmp_path / "file" / "demo", [].append, PLAN, progress=False)
