"""Where a result comes from: program version, packages, machine."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "magicvideo",
    "av",
    "diffusers",
    "numpy",
    "open_clip_torch",
    "scipy",
    "sqlalchemy",
    "torch",
    "torchmetrics",
    "transformers",
)


@dataclass(frozen=True)
class Provenance:
    """What it takes to make a result again.

    Attributes:
        git_commit: commit of the checkout the program runs from; None for an installed package.
        git_dirty: whether tracked files differ from that commit; None where there is no commit.
        packages: installed version of each package that shapes the numbers.
    """

    git_commit: str | None
    git_dirty: bool | None
    packages: dict[str, str]
    python: str
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        return asdict(self)


def collect() -> Provenance:
    """Read the provenance of the running program."""
    commit, dirty = _git_state(Path(__file__).resolve().parents[1])
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        packages=_installed_versions(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )


def _installed_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    if not (folder / ".git").exists():
        return None, None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None, None
    return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
