import json

from typer.testing import CliRunner

from evaluation.cli.study import app

DESIGN = ["simulate", "--ratio", "1.5", "--evaluators", "8", "--prompts", "10", "--studies", "4"]


def test_simulate_prints_every_interval_and_marks_itself_simulated() -> None:
    found = CliRunner().invoke(app, DESIGN)
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("simulated: 4 studies of 80 votes, true ratio 1.5")
    assert all(name in found.stdout for name in ("naive", "evaluator", "prompt", "two-way", "default"))
    rows = json.loads(CliRunner().invoke(app, [*DESIGN, "--truth", "1", "--json"]).stdout)
    assert (rows["truth"], rows["origin"]) == (1.0, "simulated")
    assert rows["adaptive"]["origin"] == "simulated"


def test_simulate_shows_adaptive_assignment_against_every_competitor() -> None:
    found = CliRunner().invoke(app, [*DESIGN, "--truth", "1.8", "--truth", "1", "--at-once", "2"])
    assert found.exit_code == 0, found.output
    assert "Adaptive assignment, 2 people at once: decides as all votes would in" in found.stdout
    assert [line.split()[0] for line in found.stdout.splitlines()[-2:]] == ["1.8", "1"]


def test_a_ratio_that_the_ties_forbid_is_one_sentence() -> None:
    found = CliRunner().invoke(app, ["simulate", "--ratio", "4", "--ties", "0.5"])
    assert found.exit_code == 2
    assert "lies between 0.5 and 2" in found.stderr
