"""Results by group of evaluators and category of prompts: each as if it were a study, p corrected for their number."""

import numpy as np
import pytest
import sqlalchemy as sa

from arena.assignment import lease
from arena.database import Database
from arena.errors import StudyError
from arena.models import Assignment
from arena.protocol import Protocol
from arena.report_data import study_report
from arena.report_statistics import compare
from arena.studies import create_study, enrol
from arena.subgroups import group_rows, holm
from arena.tally import VoteRow
from arena.ui.results import subgroups_html
from arena.voting import submit

CATEGORIES = {"people": ("prompt 0", "prompt 1", "prompt 2"), "places": ("prompt 2", "prompt 3")}


@pytest.fixture
def database(sqlite_url: str) -> Database:
    """An open SQLite database."""
    return Database(sqlite_url)


def _vote(database: Database, pseudonym: str, cohort: str, likes: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    with database.session() as session:
        token = enrol(session, "study", pseudonym=pseudonym, cohort=cohort).token
    while (task := lease(database, token)) is not None:
        with database.reading() as session:
            on_left = session.scalar(
                sa.select(Assignment.a_on_left).where(Assignment.token == task.assignment)
            )
        choice = "left" if (generator.random() < likes) == on_left else "right"
        submit(database, token=token, assignment=task.assignment, choice=choice, client_token=task.left)


def test_each_group_and_category_has_its_votes_and_its_own_interval(database: Database, make_study) -> None:
    make_study(database, prompts=4, votes_per_pair=12, categories=CATEGORIES)
    for number in range(6):
        _vote(database, f"expert {number}", "experts", 0.9, number)
        _vote(database, f"other {number}", "", 0.5, 10 + number)
    with database.reading() as session:
        report = study_report(session, "study")
    found = report["subgroups"]
    groups = {row["group"]: row for row in found["evaluator_groups"]}
    assert sorted(groups) == ["(none)", "experts"]
    assert {row["n"] for row in groups.values()} == {24}
    assert groups["experts"]["ratio"] > groups["(none)"]["ratio"]
    whole = report["comparisons"][0]
    for key in ("good", "same", "bad"):
        assert sum(row[key] for row in groups.values()) == whole[key]
    categories = {row["group"]: row for row in found["prompt_categories"]}
    assert {name: (row["n"], row["prompts"]) for name, row in categories.items()} == {
        "people": (36, 3),
        "places": (24, 2),
    }
    assert all(row["evaluators"] == 12 for row in categories.values())
    for row in (*groups.values(), *categories.values()):
        assert row["interval"][0] < row["ratio"] < row["interval"][1]
        assert row["p"] <= row["p_holm"] <= 1
        assert (row["p"] < 0.05) == (not row["interval"][0] <= 1 <= row["interval"][1])
    shown = subgroups_html(report)
    assert "experts" in shown
    assert "Exploratory" in shown


def test_a_group_is_judged_as_if_it_were_the_study() -> None:
    generator = np.random.default_rng(0)
    votes = [
        VoteRow(1, 2, "overall", int(generator.integers(-1, 2)), str(person), prompt, "human")
        for person in range(30)
        for prompt in range(8)
    ]
    halves = {"first": votes[:120], "second": votes[120:]}
    rows = group_rows(halves, {1: "ours", 2: "rival"}, estimand="two-way", level=0.95)
    for row in rows:
        shown, _ = compare(halves[row["group"]], "two-way", 0.95)
        assert (row["ratio"], tuple(row["interval"])) == (shown.ratio, shown.interval)
    assert group_rows({"only": votes}, {1: "ours", 2: "rival"}, estimand="two-way", level=0.95) == []


def test_a_group_that_agrees_wholly_has_no_p_and_does_not_count_for_holm() -> None:
    def votes(outcomes: list[int]) -> list[VoteRow]:
        return [
            VoteRow(1, 2, "overall", out, str(place), place, "human") for place, out in enumerate(outcomes)
        ]

    groups = {"alike": votes([1] * 10), "mixed": votes([1, -1] * 10 + [1] * 5)}
    alike, mixed = group_rows(groups, {1: "ours", 2: "rival"}, estimand="two-way", level=0.95)
    assert (alike["p"], alike["p_holm"]) == (None, None)
    assert alike["outcome"] != "ok"
    assert mixed["p_holm"] == mixed["p"] < 1


def test_holm_equals_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_categories_must_name_prompts_of_the_study(database: Database, make_study) -> None:
    make_study(database)
    plan = {"candidate": "ours", "competitors": ("rival",)}
    with database.session() as session, pytest.raises(StudyError, match="names 'nowhere'"):
        create_study(session, "other", Protocol(**plan, categories={"people": ("prompt 0", "nowhere")}))
    with pytest.raises(StudyError, match="a category needs"):
        Protocol(**plan, categories={"people": ()})
    read = Protocol.from_dict(plan | {"competitors": ["rival"], "categories": {"people": ["prompt 0"]}})
    assert read.categories == {"people": ("prompt 0",)}
    assert Protocol.from_dict(read.to_dict()) == read


def test_holm_agrees_with_a_worked_example_and_is_monotone() -> None:
    # Four p values of the example in Holm's procedure on Wikipedia: 0.01, 0.04, 0.03, 0.005.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
