"""The commands of learning from votes: wiring, help and refusals."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from arena.database import Database
from arena.errors import StudyError
from evaluation.cli import preferences
from evaluation.cli.improve import improve
from evaluation.cli.train import app as train
from evaluation.errors import EvaluationError
from magicvideo.errors import MagicVideoError

RUNNER = CliRunner()


def test_export_of_an_unknown_study_names_the_known_ones(database: Database, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    result = RUNNER.invoke(
        preferences.app, ["export", "nowhere", "--out", str(tmp_path / "set"), "--db", url]
    )
    assert isinstance(result.exception, StudyError)
    assert not (tmp_path / "set").exists()


def test_unknown_ways_to_treat_ties_are_wrong_use(tmp_path: Path) -> None:
    result = RUNNER.invoke(preferences.app, ["export", "study", "--out", "x", "--ties", "guess"])
    assert result.exit_code == 2


def test_training_without_a_set_says_what_was_expected(tmp_path: Path) -> None:
    result = RUNNER.invoke(train, ["preference", str(tmp_path), str(tmp_path / "out")])
    assert isinstance(result.exception, MagicVideoError)
    assert "preferences export" in str(result.exception)


@pytest.mark.parametrize(
    ("option", "words"), [("beta=high", "type float"), ("speed=1", "unknown option 'speed'")]
)
def test_wrong_options_of_tuning_are_said(tmp_path: Path, option: str, words: str) -> None:
    result = RUNNER.invoke(train, ["preference", str(tmp_path), str(tmp_path / "out"), "--set", option])
    assert words in str(result.exception)


def test_improve_refuses_impossible_rounds(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(improve)
    result = RUNNER.invoke(app, [str(tmp_path / "run"), "--seeds", "1", "--threads", "1"])
    assert isinstance(result.exception, EvaluationError)
    assert "seeds must be at least 2" in str(result.exception)
