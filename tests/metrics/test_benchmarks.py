"""The programs under ``benchmarks`` keep what docs/metrics.md says of speed, memory and hardness."""

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


def test_clip_score_costs_what_encoding_costs_and_torchmetrics_more() -> None:
    report = run("clip", "--repeats", "3")
    assert report["ours_over_bare"] <= 1.05
    assert report["torchmetrics_over_ours"]["same network"] >= 1.4
    assert max(report["differences_from_bare"].values()) < 1e-5


def test_frechet_distance_is_twenty_times_faster_than_a_matrix_square_root() -> None:
    report = run("frechet", "--samples", "256", "--dim", "2048")
    assert report["times_faster"] >= 20
    assert abs(report["distance_to_itself_16x400"]) < 1e-10
    assert report["difference"] < 1e-2


def test_a_large_video_is_scored_in_little_memory_and_time() -> None:
    report = run("decode", "--frames", "94", "--size", "1048")
    assert report["failures"] == 0
    assert report["peak_mib"] < 1024
    assert report["wall_seconds"] < 20
    assert report["values"]["temporal"] is not None


def test_ten_thousand_mutated_files_raise_nothing_but_media_errors() -> None:
    report = run("fuzz", "--count", "10000")
    assert report["failed"] == []
    assert report["outcomes"]["read"] + report["outcomes"]["refused"] == 10_000
