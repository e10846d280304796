import subprocess
from pathlib import Path

from evaluation.provenance import _git_state, collect


def test_provenance_names_packages_and_interpreter() -> None:
    found = collect()
    assert {"numpy", "sqlalchemy", "av"} <= found.packages.keys()
    assert found.python.startswith("3.")
    assert found.to_dict()["packages"] == found.packages


def test_folder_outside_git_has_no_commit(tmp_path: Path) -> None:
    assert _git_state(tmp_path) == (None, None)


def test_commit_and_changes_are_told_apart(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert _git_state(tmp_path) == (None, None)
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-m", "one")
    assert _git_state(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a.txt").write_text("two")
    assert _git_state(tmp_path) == (git("rev-parse", "HEAD"), True)
