"""What the programs under ``benchmarks`` compute is right; the time they take they print, and no test asserts it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(program: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark and return its report."""
    path = Path(__file__).parents[2] / "benchmarks" / f"metrics_{program}.py"
    done = subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=1700, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_clip_score_is_what_encoding_both_by_hand_gives() -> None:
    report = run("clip", "--repeats", "1")
    assert max(report["differences_from_bare"].values()) < 1e-5


def test_frechet_distance_is_that_of_a_matrix_square_root() -> None:
    report = run("frechet", "--samples", "256", "--dim", "2048")
    assert abs(report["distance_to_itself_16x400"]) < 1e-10
    assert report["difference"] < 1e-2


def test_a_large_video_is_scored_in_little_memory() -> None:
    report = run("decode", "--frames", "94", "--size", "1048")
    assert report["failures"] == 0
    assert report["peak_mib"] < 1024
    assert report["values"]["temporal"] is not None


def test_ten_thousand_mutated_files_raise_nothing_but_media_errors() -> None:
    report = run("fuzz", "--count", "10000")
    assert report["failed"] == []
    assert report["outcomes"]["read"] + report["outcomes"]["refused"] == 10_000
