"""What a report says, in numbers and in words."""

import json
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import evaluation
from arena.assignment import lease
from arena.database import Database
from arena.exchange import import_counts, import_genai_bench, import_votes
from arena.models import Enrolment
from arena.preference import clustered_se
from arena.report_data import nested_by_method, study_report
from arena.studies import enrol
from arena.voting import submit

VOTES = Path(evaluation.__file__).parent / "data" / "votes"
CONTRACT = (
    "candidate competitor good same bad n ratio se_log_ratio interval tie_share good_over_bad net_preference"
)


@pytest.fixture
def database(sqlite_url: str) -> Database:
    """An open SQLite database."""
    return Database(sqlite_url)


def _imported(database: Database, tmp_path: Path, text: str, **design: int) -> dict:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with database.session() as session:
        if "verdict" in text:
            import_votes(session, path, "mine")
        else:
            import_counts(session, path, "mine", **design)
        return study_report(session, "mine")


def test_table_1_comes_with_its_ratios_and_the_excess_in_words(database: Database) -> None:
    with database.session() as session:
        import_counts(session, VOTES / "magicvideo_v2_table1.csv", "table 1")
        report = study_report(session, "table 1")
    ratios = [row["ratio"] for row in report["comparisons"]]
    assert ratios == pytest.approx([2.669165, 2.679401, 2.718924, 1.782428, 1.624019], abs=1e-6)
    assert set(CONTRACT.split()) <= set(report["comparisons"][0])
    assert all("follows from the counts" in row["notes"][0] for row in report["comparisons"])
    said = report["warnings"][0]
    for words in ("30,600", "61 evaluators x 500 comparisons", "30,500", "100 too many", "Pika 1.0 (+100)"):
        assert words in said
    assert any("lower bounds on the uncertainty" in warning for warning in report["warnings"])
    assert any("MoonValley and Pika 1.0" in warning for warning in report["warnings"])
    assert not any("Gen-2 and SVD-XT" in warning for warning in report["warnings"])
    json.dumps(report, allow_nan=False)


def test_table_1_is_ranked_and_its_poor_fit_is_said(database: Database) -> None:
    with database.session() as session:
        import_counts(session, VOTES / "magicvideo_v2_table1.csv", "table 1")
        report = study_report(session, "table 1")
    ranking = report["ranking"]
    assert ranking["model"] == "davidson"
    assert ranking["nu"] == pytest.approx(0.638548, abs=1e-6)
    assert ranking["goodness_of_fit"]["statistic"] == pytest.approx(159.384, abs=1e-3)
    assert ranking["rank_intervals"]["MagicVideo-V2"] == [1, 1]
    assert ranking["side_effect"] is None
    assert ranking["components"] == [ranking["systems"]]
    assert {row["model"].partition(",")[0] for row in ranking["alternatives"]} == {
        "davidson",
        "rao-kupper",
        "bradley-terry",
    }
    assert any("star around MagicVideo-V2" in note for note in ranking["notes"])
    assert any("do not describe these votes" in note for note in ranking["notes"])
    assert report["agreement"]["alpha_ordinal"] is None
    assert report["agreement"]["notes"] == ["Agreement needs votes that name their evaluator and prompt."]
    row = report["comparisons"][0]
    assert row["se_by_method"] == dict.fromkeys(row["se_by_method"]) | {"naive": row["se_log_ratio"]}
    assert row["interval_by_method"]["naive"] == row["interval"]


def test_the_side_effect_comes_from_the_sides_that_were_shown(database: Database, make_study) -> None:
    make_study(database, prompts=12, votes_per_pair=3)
    with database.session() as session:
        people = [enrol(session, "study", pseudonym=f"person {number}") for number in range(3)]
    for number, person in enumerate(people):
        seen = 0
        while (task := lease(database, person.token)) is not None:
            choice = "right" if seen % 3 == 2 else "left"
            seen += 1
            submit(
                database,
                token=person.token,
                assignment=task.assignment,
                choice="same" if seen == 12 - number else choice,
                client_token=task.left,
            )
    with database.reading() as session:
        report = study_report(session, "study")
    side = report["ranking"]["side_effect"]
    assert side["value"] > 0.3
    assert side["interval"][0] < side["value"] < side["interval"][1]
    assert report["agreement"]["pairwise"]["pairs"] == 36
    json.dumps(report, allow_nan=False)


def test_repeats_are_compared_with_the_first_vote_and_left_out_of_agreement(
    database: Database, tmp_path: Path
) -> None:
    table = "evaluator,prompt,candidate,competitor,verdict\n"
    table += "e,p,a,b,good\ne,p,a,b,bad\nf,p,a,b,good\nf,p,a,b,good\n"
    found = _imported(database, tmp_path, table)["agreement"]
    assert found["repeat_consistency"]["value"] == pytest.approx(0.5)
    assert found["repeat_consistency"]["pairs"] == 2
    assert found["side_swap_consistency"] is None
    assert (found["pairwise"]["value"], found["pairwise"]["pairs"]) == (1.0, 1)


def test_a_printed_ratio_that_does_not_follow_is_named(database: Database, tmp_path: Path) -> None:
    header = "candidate,competitor,good,same,bad,published_ratio\n"
    report = _imported(database, tmp_path, header + "a,b,10,5,5,1.6\na,c,10,5,5,1.5\n")
    assert report["comparisons"][0]["notes"] == [
        "the published ratio 1.6 does not follow from the counts, which give 1.500"
    ]
    assert "Published ratios that do not follow from their counts: b." in report["warnings"]


def test_a_stated_design_that_fits_is_said_to_fit(database: Database, tmp_path: Path) -> None:
    table = "candidate,competitor,good,same,bad\na,b,10,5,5\n"
    report = _imported(database, tmp_path, table, stated_evaluators=2, stated_comparisons=10)
    assert "gives 20 too" in report["warnings"][0]


def test_degenerate_comparisons_are_named_not_hidden(database: Database, tmp_path: Path) -> None:
    table = "candidate,competitor,good,same,bad\na,b,0,5,0\na,c,5,0,0\na,d,0,0,0\n"
    report = _imported(database, tmp_path, table)
    assert [row["outcome"] for row in report["comparisons"]] == ["no information", "infinite", "no votes"]
    named = "Comparisons without an ordinary ratio: b: no information; c: infinite; d: no votes."
    assert named in report["warnings"]
    json.dumps(report, allow_nan=False)


def test_votes_with_evaluators_and_prompts_get_two_way_intervals(database: Database, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    outcomes = generator.choice([1, 0, -1], size=120, p=[0.5, 0.2, 0.3])
    verdict = {1: "good", 0: "same", -1: "bad"}
    lines = [f"e{i % 24},p{i // 24},a,b,{verdict[int(value)]}" for i, value in enumerate(outcomes)]
    report = _imported(
        database, tmp_path, "evaluator,prompt,candidate,competitor,verdict\n" + "\n".join(lines)
    )
    (row,) = report["comparisons"]
    error = clustered_se(outcomes, [i % 24 for i in range(120)], [i // 24 for i in range(120)])
    assert row["interval_method"] == "two-way jackknife"
    assert row["se_log_ratio"] == pytest.approx(error.jackknife)
    methods = {"naive", "evaluator", "prompt", "two_way", "jackknife", "bootstrap"}
    assert set(row["se_by_method"]) == set(row["interval_by_method"]) == methods
    assert row["se_by_method"]["two_way"] == pytest.approx(error.two_way)
    assert row["interval_by_method"]["jackknife"] == pytest.approx(row["interval"])
    assert row["exact_p"] == row["sign_test_p"]
    assert 0 < row["sign_flip_p"] <= 1
    assert report["ranking"]["redrawn"] == "evaluators and prompts"
    assert (report["agreement"]["units"], report["agreement"]["evaluators"]) == (5, 24)
    assert report["agreement"]["alpha_ordinal"]["value"] == pytest.approx(0, abs=0.1)
    assert report["agreement"]["repeat_consistency"] is None
    json.dumps(report, allow_nan=False)
    assert report["design"]["observed"] == {"votes": 120, "evaluators": 24, "prompts": 5}
    assert any("only 5 evaluators or prompts" in warning for warning in report["warnings"])


def test_votes_without_evaluators_are_clustered_by_prompt_and_say_so(database: Database) -> None:
    with database.session() as session:
        import_genai_bench(session, VOTES / "genai_bench_video_votes.csv", "genai", both_bad="same")
        report = study_report(session, "genai")
    assert report["comparisons"][0]["interval_method"] == "prompt"
    assert any("231 votes" in warning and "count as Same" in warning for warning in report["warnings"])
    assert any("name only prompts" in warning for warning in report["warnings"])


def test_repeated_votes_are_mentioned(database: Database, tmp_path: Path) -> None:
    line = "e,p,a,b,good\n"
    report = _imported(database, tmp_path, "evaluator,prompt,candidate,competitor,verdict\n" + line * 3)
    assert any(warning.startswith("2 votes repeat") for warning in report["warnings"])


def test_the_order_by_ties_is_mentioned_only_when_it_changes(database: Database, tmp_path: Path) -> None:
    table = "candidate,competitor,good,same,bad\na,b,60,20,20\na,c,30,40,30\n"
    report = _imported(database, tmp_path, table)
    assert not any("How ties are counted" in warning for warning in report["warnings"])


def test_only_votes_of_people_who_were_not_excluded_count(database: Database, make_study) -> None:
    make_study(database, prompts=4, votes_per_pair=3)
    people = {}
    with database.session() as session:
        for name, origin in (("kept", "human"), ("dropped", "human"), ("model", "simulated")):
            people[name] = enrol(session, "study", pseudonym=name, origin=origin)
    for name, person in people.items():
        while (task := lease(database, person.token)) is not None:
            choice = "same" if name == "kept" else "left"
            submit(
                database,
                token=person.token,
                assignment=task.assignment,
                choice=choice,
                client_token=task.left,
            )
    with database.session() as session:
        dropped = Enrolment.evaluator_id == people["dropped"].evaluator_id
        session.execute(
            sa.update(Enrolment).where(dropped).values(state="excluded", exclusion_reason="asked to be")
        )
        report = study_report(session, "study")
    (row,) = report["comparisons"]
    assert (row["good"], row["same"], row["bad"], row["outcome"]) == (0, 4, 0, "no information")
    origin = report["data_origin"]
    assert (origin["human"], origin["simulated"], origin["excluded"]) == (4, 4, 4)
    assert "4 simulated votes are in this study and are not counted." in report["warnings"]
    assert "4 of 12 planned votes are in." in report["warnings"]
    assert any("interim" in warning for warning in report["warnings"])


def test_a_study_without_votes_says_so(database: Database, make_study) -> None:
    make_study(database)
    with database.reading() as session:
        report = study_report(session, "study")
    assert report["comparisons"] == []
    assert report["ranking"] is None
    assert "There are no votes of people in this study yet." in report["warnings"]


def test_the_json_report_has_errors_and_intervals_by_method(database: Database, make_study) -> None:
    make_study(database, prompts=6, competitors=("rival", "other"), votes_per_pair=6, repeat_share=0.25)
    generator = np.random.default_rng(5)
    for number in range(6):
        with database.session() as session:
            token = enrol(session, "study", pseudonym=f"person {number}").token
        while (task := lease(database, token)) is not None:
            choice = str(generator.choice(["left", "same", "right"]))
            submit(database, token=token, assignment=task.assignment, choice=choice, client_token=task.left)
    with database.reading() as session:
        flat = study_report(session, "study")
    report = nested_by_method(flat)
    methods = {"naive", "evaluator", "prompt", "two_way", "jackknife", "bootstrap", "shown"}
    for row, before in zip(report["comparisons"], flat["comparisons"], strict=True):
        assert set(row["se_log_ratio"]) == set(row["interval"]) == methods
        assert row["se_log_ratio"]["shown"] == before["se_log_ratio"]
        assert row["interval"]["shown"] == before["interval"]
        for method in ("naive", "evaluator", "prompt", "two_way", "bootstrap"):
            low, high = row["interval"][method]
            assert 0 < low < row["ratio"] < high
        assert 0 <= row["exact_p"] <= 1
        assert "se_by_method" not in row
    named = "model strength nu log_likelihood goodness_of_fit rank_intervals components side_effect"
    assert set(named.split()) <= set(report["ranking"])
    assert (
        report["ranking"]["side_effect"]["interval"][0] < 0 < report["ranking"]["side_effect"]["interval"][1]
    )
    assert set(report["design"]) == {"planned", "observed"}
    observed, planned = report["design"]["observed"], report["design"]["planned"]
    assert (observed["votes"], planned["votes"], observed["candidate_on_left"]) == (72, 72, 36)
    reliability = report["agreement"]["reliability"]
    assert set(reliability["evaluators"]) == {f"person {number}" for number in range(6)}
    assert reliability["habits"] == "sides"
    assert sum(row["votes"] for row in reliability["evaluators"].values()) == 72
    assert report["protocol_missing"] == ["instructions", "consent", "training pairs", "gold pairs"]
    assert report["stopping"]["rule"] == "fixed"
    json.dumps(report, allow_nan=False)


def test_what_a_published_table_does_not_say_is_named(database: Database) -> None:
    with database.session() as session:
        import_counts(session, VOTES / "magicvideo_v2_table1.csv", "table 1")
        report = nested_by_method(study_report(session, "table 1"))
    assert {"prompts", "blinding", "balance of sides"} <= set(report["protocol_missing"])
    row = report["comparisons"][0]
    assert row["se_log_ratio"]["naive"] == pytest.approx(0.021320, abs=1e-6)
    assert row["interval"]["naive"] == pytest.approx([2.560, 2.783], abs=1e-3)
    assert row["interval"]["two_way"] is None
    assert report["stopping"] == {"rule": None, "assignment": None, "comparisons": [], "sentence": ""}
