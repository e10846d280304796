"""The ladder of distortions over eight seeds: rates, not means."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "metrics_ladder.py"


@pytest.fixture(scope="module")
def rates() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--seeds", "8"],
        capture_output=True,
        text=True,
        timeout=1700,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_defect_of_motion_is_ordered_in_every_seed(rates: dict[str, Any]) -> None:
    changes = rates["motion"].pop("largest change by a swap of red and blue")
    assert max(changes.values()) < 0.15
    wrong = [
        f"{promise}, {name}: {rate}"
        for promise, cases in rates["motion"].items()
        for name, rate in cases.items()
        if rate < 1
    ]
    assert not wrong


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_embedded_models_catch_what_their_recipes_say(rates: dict[str, Any]) -> None:
    for model, seen in (("clip", 2), ("video", 3)):
        for wrong in ("wrong_colour", "wrong_shape", "wrong_motion")[:seen]:
            assert rates["text"][model][wrong] >= 0.95, (model, wrong)
        assert rates["text"][model]["red and blue swapped"] >= 0.95, model
    assert rates["text"]["video"]["frozen"] >= 0.99
    for defect in ("freeze", "shuffle", "blur_16", "noise_40", "collapse"):
        assert rates["fréchet distance over clean"][defect] == 1
