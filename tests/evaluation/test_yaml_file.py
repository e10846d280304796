"""Every YAML reader of the harness names file, line, key and what is allowed there."""

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from evaluation.ablation.specification import TEMPLATE as ABLATION
from evaluation.ablation.specification import read_ablation
from evaluation.bench.specification import TEMPLATE as BENCH
from evaluation.bench.specification import read_bench
from evaluation.errors import EvaluationError
from evaluation.gate.specification import TEMPLATE as GATE
from evaluation.gate.specification import read_gate
from evaluation.systems.card import SystemCard
from evaluation.yaml_file import read_yaml

CARD = (files("evaluation") / "systems" / "cards" / "svd-xt.yaml").read_text(encoding="utf-8")
KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bench": (read_bench, BENCH.format(name="run")),
    "ablation": (read_ablation, ABLATION.format(name="run")),
    "gate": (read_gate, GATE),
    "card": (partial(read_yaml, model=SystemCard), CARD),
}


def refusal(tmp_path: Path, kind: str, old: str, new: str) -> tuple[str, int]:
    """Return what a changed file of a kind is refused with, after its name, and the line of the change."""
    read, text = KINDS[kind]
    assert text.count(old) >= 1
    path = tmp_path / f"{kind}.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(EvaluationError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said.removeprefix(str(path)), text[: text.index(old)].count("\n") + 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_is_read(tmp_path: Path, kind: str) -> None:
    read, text = KINDS[kind]
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    read(tmp_path / "file.yaml")


@pytest.mark.parametrize(
    ("kind", "old", "new", "sentence"),
    [
        ("bench", "seeds: [0]", "seedz: [0]", "unknown key 'seedz'; allowed here: folder, database"),
        ("bench", "prompts: ", "promts: ", "unknown key 'promts'; allowed here: folder, database"),
        (
            "bench",
            "truth:\n    sprites_truth: {}",
            "truth: 3",
            "systems.truth: input should be a mapping, got 3",
        ),
        ("bench", "seeds: [0]", "seeds: 0", "seeds: input should be a list, got 0"),
        ("bench", "sample: 8", "sample: many", "prompts.0.sample: input should be a valid integer"),
        (
            "bench",
            "suite: sprites ",
            "suite: sprite ",
            "prompts.0.suite: unknown prompt suite; known: vbench",
        ),
        (
            "bench",
            "sprites_truth: {}",
            "card: gen-9",
            "systems.truth.card: there is no such system card; known: al",
        ),
        (
            "bench",
            "devices: [cpu] ",
            "ray: auto #",
            "engine.ray: does not go with workers, which are for processes on this machine",
        ),
        (
            "bench",
            "devices: [cpu] ",
            "gpus: 1 ",
            "engine.gpus: belongs to ray; without it name the accelerators",
        ),
        ("bench", "[clip, temporal]", "[fvd]", "metrics: 'fvd' needs reference, a folder of real videos"),
        (
            "ablation",
            "leave_one_out",
            "leave_1_out",
            "unknown key 'leave_1_out'; allowed here: folder, database",
        ),
        (
            "ablation",
            "prior, i2v",
            "prior, i3v",
            "leave_one_out: unknown part 'i3v'; known: prior, controlnet",
        ),
        (
            "ablation",
            "vfi.kind: [",
            "vfi.kin: [",
            "sweeps.vfi.kin: unknown setting 'vfi.kin'; vfi has kind, factor",
        ),
        (
            "ablation",
            "[blend, ema",
            "[blent, ema",
            "sweeps.vfi.kind: unknown vfi.kind 'blent'; known: combined",
        ),
        ("ablation", "[blend, ema, edsc]", "[]", "sweeps.vfi.kind: give at least one value"),
        (
            "ablation",
            "preset: sprites",
            "preset: sprite",
            "base.preset: unknown preset 'sprite'; known: sprites",
        ),
        ("ablation", "seeds: [0]", "seeds: [zero]", "seeds.0: input should be a valid integer"),
        ("ablation", "seeds: [0]", "confidence: 95", "confidence: input should be less than 1, got 95"),
        (
            "gate",
            "tolerance: 0.5",
            "tolerence: 0.5",
            "unknown key 'metrics.clip.tolerence'; allowed here: toler",
        ),
        (
            "gate",
            "tolerance: 0.5",
            "tolerance: small",
            "metrics.clip.tolerance: input should be a valid number",
        ),
        ("gate", "direction: higher", "direction: up", "input should be 'higher' or 'lower', got 'up'"),
        ("gate", "minimum_prompts: 8", "minimum_prompts: 1", "should be greater than or equal to 3, got 1"),
        ("card", "licence:", "license:", "unknown key 'license'; allowed here: title, maker"),
        ("card", "frames: 25", "frames: 26", "native: 26 frames at 7 fps do not last 3.57 s"),
        ("card", "width: ", "width: -", "native.width: input should be greater than 0"),
    ],
)
def test_bad_file_names_line_key_and_what_is_allowed(
    tmp_path: Path, kind: str, old: str, new: str, sentence: str
) -> None:
    said, line = refusal(tmp_path, kind, old, new)
    assert sentence in said
    assert said.startswith(f", line {line}: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, " cannot be read: No such file or directory"),
        (b"", " is empty or no mapping; allowed keys: "),
        (b"- a\n", " is empty or no mapping; allowed keys: "),
        (b"\xff\xfe\xfa", " cannot be read: it is no UTF-8 text (byte 0)"),
        (b"a: [1\nb: 2\n", ", line 2: this is no YAML (expected ',' or ']'"),
        (b"a: \x00", " is no YAML: unacceptable character"),
        (b"a: 2024-99-99", " is no YAML: month must be in 1..12"),
        (b"a: " + b"[" * 1200, " is no YAML: maximum recursion depth"),
        (b"a: 1\nb: 2\na: 3\n", ", line 3: the key 'a' is given twice; keep one"),
        (b"1: 2\n", ", line 1: 1: keys should be strings, got 1"),
    ],
)
def test_file_that_is_no_mapping_is_refused_in_one_sentence(
    tmp_path: Path, kind: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvaluationError) as caught:
        KINDS[kind][0](path)
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)
