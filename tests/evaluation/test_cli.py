"""The program as its user meets it: every group listed, nothing heavy imported for help, one sentence on bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = ("generate", "score", "report", "demo", "study", "arena", "db", "metrics", "train")
PROMPT = "a large red star spinning on a sunset background"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evaluation.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_lists_every_group(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert [group for group in GROUPS if f" {group} " not in result.stdout] == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, evaluation.cli.main; "
        "print([name for name in ('torch', 'diffusers', 'sqlalchemy', 'pandas', 'scipy', 'numpy', 'streamlit', 'av',"
        " 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", "-o", "x.mp4"), "the prompt is empty"),
        ((PROMPT, "-o", "missing/x.mp4"), "the folder missing does not exist"),
        ((PROMPT, "-o", "x.gif"), "give a name ending in .mp4"),
        ((PROMPT, "-o", "x.mp4", "--preset", "papr"), "unknown preset 'papr'; known: sprites"),
        ((PROMPT, "-o", "x.mp4", "--arm", "-t2i"), "unknown arm '-t2i'; known: full"),
    ],
)
def test_bad_generate_is_one_sentence_and_leaves_nothing(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    result = run("generate", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("sheet.gif", "sheet.gif is neither .jpg nor .png"), ("missing/sheet.jpg", "create it first")],
)
def test_a_sheet_that_could_not_be_written_is_refused_at_once(
    file: str, sentence: str, tmp_path: Path
) -> None:
    result = run("sprites", "sheet", file, cwd=tmp_path)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_exits_with_two(tmp_path: Path) -> None:
    assert run("generate", cwd=tmp_path).returncode == 2
    assert run("paint", cwd=tmp_path).returncode == 2
