"""Votes to preference sets: what counts, how much, what is left out, and what is said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from arena import assignment, catalogue, evaluators, studies, voting
from arena.database import Database
from arena.oversight import Cast, conduct_of
from arena.protocol import Protocol
from evaluation.errors import EvaluationError
from evaluation.preferences import (
    Preference,
    Tally,
    decide,
    export_preferences,
    quality,
    split_by_prompt,
    write_set,
)
from magicvideo.training.preference_data import read_preferences, set_digest
from magicvideo.video import write_video

PROMPTS = tuple(f"prompt {index}" for index in range(5))
Chooser = Callable[[str, str], str]


def add_videos(database: Database, folder: Path, name: str, *, ours: bool = True, seed: int = 0) -> None:
    """Enter one small clip of each prompt, made by our pipeline or by a stranger."""
    with database.session() as session:
        system = catalogue.ensure_system(session, name, config_digest=name)
        config = {"pipeline": {"name": "sprites"}} if ours else {"endpoint": "elsewhere"}
        run = catalogue.start_run(session, system, config_digest=name, seed=seed, config=config)
        for index, text in enumerate(PROMPTS):
            rng = np.random.default_rng([seed, index, len(name)])
            path = folder / f"{name}-{index}.mp4"
            write_video(path, rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8), 10)
            prompt = catalogue.ensure_prompt(session, text)
            catalogue.add_video(session, system, prompt, path, seed=seed, run=run)


def study_of(database: Database, folder: Path, *, ours: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    add_videos(database, folder, "child")
    add_videos(database, folder, "parent", ours=ours, seed=1)
    protocol = Protocol(candidate="child", competitors=("parent",), votes_per_pair=8, min_watch=0.0)
    with database.session() as session:
        studies.create_study(session, "study", protocol)
    studies.open_study(database, "study")


def vote(database: Database, pseudonym: str, verdicts: dict[str, int], origin: str = "human") -> None:
    """Let one evaluator vote on every pair: +1, 0 or -1 for the child, by prompt."""
    with database.session() as session:
        token = studies.enrol(session, "study", pseudonym=pseudonym, origin=origin).token
    while (task := assignment.lease(database, token)) is not None:
        left_is_child = _child_is_left(database, task.assignment)
        wanted = verdicts[task.prompt]
        choice = "same" if wanted == 0 else ("left" if (wanted > 0) == left_is_child else "right")
        voting.submit(
            database, token=token, assignment=task.assignment, choice=choice, client_token=task.assignment
        )


def _child_is_left(database: Database, token: str) -> bool:
    from sqlalchemy import select

    from arena.models import Assignment

    with database.reading() as session:
        return bool(session.scalar(select(Assignment.a_on_left).where(Assignment.token == token)))


@pytest.fixture
def voted(database: Database, tmp_path: Path) -> Database:
    """A study with three people's votes: unanimous, two to one, contradictory, and ties."""
    study_of(database, tmp_path / "clips")
    for name, verdicts in {
        "ann": (1, 1, 1, 0, -1),
        "bob": (1, 1, -1, 0, -1),
        "cas": (1, -1, 0, 0, 0),
    }.items():
        vote(database, name, dict(zip(PROMPTS, verdicts, strict=True)))
    return database


def rows_of(folder: Path) -> dict[str, dict[str, object]]:
    found = {}
    for split in ("train", "test"):
        for row in parquet.read_table(folder / split / "metadata.parquet").to_pylist():
            found[row["prompt"]] = row | {"split": split}
    return found


def test_dropped_ties_leave_margins_and_smoothed_ones_probabilities(voted: Database, tmp_path: Path) -> None:
    with voted.reading() as session:
        dropped = export_preferences(session, "study", tmp_path / "drop")
        smoothed = export_preferences(session, "study", tmp_path / "smooth", ties="smooth")
    rows = rows_of(tmp_path / "drop")
    assert {prompt: row["weight"] for prompt, row in rows.items()} == pytest.approx(
        {"prompt 0": 1, "prompt 1": 1 / 3, "prompt 4": 1}
    )
    assert rows["prompt 0"]["winner_system"] == "child"
    assert rows["prompt 4"]["winner_system"] == "parent"
    assert dropped.left_out == {"with contradictory votes": 1, "with nothing but ties": 1}
    assert "Ties are dropped" in dropped.sentence
    rows = rows_of(tmp_path / "smooth")
    assert {prompt: row["probability"] for prompt, row in rows.items()} == pytest.approx(
        {"prompt 0": 1, "prompt 1": 2 / 3, "prompt 3": 0.5, "prompt 4": 2.5 / 3}
    )
    assert smoothed.left_out == {"with contradictory votes": 1}
    assert "half for each side" in (tmp_path / "smooth" / "README.md").read_text()


def test_set_is_what_training_reads(voted: Database, tmp_path: Path) -> None:
    with voted.reading() as session:
        export_preferences(session, "study", tmp_path / "set")
    train, test = (read_preferences(tmp_path / "set", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 1)
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in test}
    assert len(set_digest(tmp_path / "set")) == 16
    with voted.reading() as session, pytest.raises(EvaluationError, match="not empty"):
        export_preferences(session, "study", tmp_path / "set")


def test_automatic_votes_and_excluded_people_are_never_among_those_of_people(
    voted: Database, tmp_path: Path
) -> None:
    vote(voted, "machine", dict.fromkeys(PROMPTS, -1), origin="automatic")
    with voted.session() as session:
        study = studies.get_study(session, "study")
        evaluators.exclude(session, study, "cas", reason="clicks at random", by="owner")
    with voted.reading() as session:
        export_preferences(session, "study", tmp_path / "human")
        export_preferences(session, "study", tmp_path / "automatic", origin="automatic")
        with pytest.raises(EvaluationError, match="no votes of origin 'simulated'"):
            export_preferences(session, "study", tmp_path / "none", origin="simulated")
    people = rows_of(tmp_path / "human")
    assert people["prompt 1"]["weight"] == 1  # without cas
    assert {row["winner_system"] for row in rows_of(tmp_path / "automatic").values()} == {"parent"}
    assert "origin: automatic" in (tmp_path / "automatic" / "README.md").read_text()


def test_pairs_with_a_foreign_system_are_refused(database: Database, tmp_path: Path) -> None:
    study_of(database, tmp_path / "clips", ours=False)
    vote(database, "ann", dict.fromkeys(PROMPTS, 1))
    with (
        database.reading() as session,
        pytest.raises(EvaluationError, match=r"all 5 pairs .* foreign system"),
    ):
        export_preferences(session, "study", tmp_path / "set")


def tally(prompt: str, good: float, same: float, bad: float) -> Tally:
    return Tally(prompt=prompt, first=f"{prompt} a", second=f"{prompt} b", good=good, same=same, bad=bad)


@pytest.mark.parametrize("ties", ["drop", "smooth"])
def test_votes_that_prefer_nothing_are_said(ties: str) -> None:
    with pytest.raises(EvaluationError, match="contradictory votes"):
        decide([tally("x", 1, 0, 1), tally("y", 2, 1, 2)], ties, what="it")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="prefer nothing"):
        decide([tally("x", 0, 3, 0)], ties, what="it")  # type: ignore[arg-type]


def test_few_prompts_are_said() -> None:
    for prompts in (["x"], ["x", "y"]):
        with pytest.raises(EvaluationError, match="collect votes on more prompts"):
            split_by_prompt(prompts * 4, 0.2)


def test_split_depends_on_the_prompts_alone() -> None:
    prompts = [f"p{index}" for index in range(50)]
    split = split_by_prompt(prompts, 0.2)
    assert sum(value == "test" for value in split.values()) == 10
    assert split == split_by_prompt(prompts[::-1] * 2, 0.2)


def test_quality_is_the_share_of_checks_passed() -> None:
    def cast(pair: int, outcome: int, *, kind: str = "main", repeat: bool = False) -> Cast:
        expected = 1 if kind == "gold" else None
        return Cast(
            pair=pair,
            choice="left",
            outcome=outcome,
            decision_ms=900,
            expected=expected,
            kind=kind,
            repeat=repeat,
        )

    gold = [cast(index, 1 if index < 3 else -1, kind="gold") for index in range(4)]
    assert quality(conduct_of(gold)) == 0.75
    assert quality(conduct_of(gold[:1])) == 1.0  # too few to judge by
    first = [cast(index, 1) for index in range(10, 16)]
    again = [cast(index, 1 if index < 13 else 0, repeat=True) for index in range(10, 16)]
    assert quality(conduct_of(gold + first + again)) == 0.375


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    rows = [Preference(prompt=p, winner=f"{p}w", loser=f"{p}l", weight=1, probability=1) for p in "xyz"]

    def fail(key: str) -> tuple[bytes, str]:
        if key == "zl":
            raise OSError("disk full")
        return key.encode(), ".png"

    makers = {key: "s" for row in rows for key in (row.winner, row.loser)}
    with pytest.raises(EvaluationError, match="disk full"):
        write_set(tmp_path / "set", rows, fail, makers=makers, ties="drop", left_out={}, about="")
    assert not (tmp_path / "set").exists()
    write_set(
        tmp_path / "set",
        rows,
        lambda key: (key.encode(), ".png"),
        makers=makers,
        ties="drop",
        left_out={},
        about="",
    )
    assert len(read_preferences(tmp_path / "set", "train")) == 2
