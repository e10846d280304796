"""Rounds of learning: the arithmetic of the comparison, the decision, and a whole round of a tiny checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.gate.compare import GateResult, MetricVerdict
from evaluation.gate.paired import Verdict
from evaluation.improve import ImproveConfig, improve, scene_prompts
from evaluation.improve_compare import (
    Comparison,
    Votes,
    accuracy_of,
    decide_round,
    preference_of,
    report,
    to_dict,
)
from evaluation.judge_votes import Reading
from magicvideo.errors import MagicVideoError


def reading(*, shape: float, colour: float) -> Reading:
    return Reading(attributes={"shape": shape, "colour": colour}, sharpness=1.0)


def comparison(outcomes: list[int]) -> Comparison:
    prompts = [f"p{index}" for index in range(len(outcomes))]
    before = {(prompt, 0): reading(shape=0.2, colour=0.9) for prompt in prompts}
    after = {
        place: reading(shape=0.9 if outcome > 0 else 0.2, colour=0.9)
        for place, outcome in zip(before, outcomes, strict=True)
    }
    return Comparison(
        name="child", votes=preference_of(outcomes, prompts), accuracy=accuracy_of(before, after)
    )


def gate(verdict: Verdict) -> GateResult:
    row = MetricVerdict(metric="clip", verdict=verdict, direction="higher", tolerance=0.5, reason="so it is")
    return GateResult(baseline="parent", candidate="child", confidence=0.95, metrics=(row,))


def test_ratio_and_accuracy_are_paired_and_clustered() -> None:
    found = comparison([1] * 12 + [0] * 6 + [-1] * 6)
    assert found.votes.ratio == pytest.approx(18 / 12)
    assert found.votes.method == "prompt"
    assert found.votes.low is not None
    assert found.votes.low < 1.5 < (found.votes.high or 0)
    assert (found.accuracy.before, found.accuracy.after) == (0, 0.5)
    assert found.accuracy.improvement == pytest.approx(0.5)
    assert found.accuracy.by_attribute == {"shape": (0.0, 0.5), "colour": (1.0, 1.0)}


def test_two_seeds_of_a_prompt_are_one_cluster() -> None:
    outcomes = [1] * 10 + [0] * 10 + [-1] * 4
    once = preference_of(outcomes, list(range(24)))
    twice = preference_of(
        [value for value in outcomes for _ in range(2)], [i for i in range(24) for _ in range(2)]
    )
    assert twice.ratio == once.ratio
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(
    ("outcomes", "video", "verdict", "kept", "words"),
    [
        ([1] * 20 + [0] * 4, None, None, True, "no videos were asked for"),
        ([1] * 20 + [0] * 4, [0, 1, 0, 0], "pass", True, "pass"),
        ([1] * 20 + [0] * 4, [0, 1, 0, 0], "inconclusive", True, "inconclusive"),
        ([1] * 20 + [0] * 4, [0, 1, 0, 0], "regression", False, "regression"),
        ([1] * 20 + [0] * 4, [-1] * 20 + [0] * 4, "pass", False, "videos are worse"),
        ([1, -1] * 12, None, None, False, "not preferred beyond doubt"),
        ([0] * 24, None, None, False, "not preferred beyond doubt"),
    ],
)
def test_a_child_is_kept_if_preferred_and_nothing_regresses(
    outcomes: list[int], video: list[int] | None, verdict: Verdict | None, kept: bool, words: str
) -> None:
    votes = None if video is None else preference_of(video, list(range(len(video))))
    found, reason = decide_round(comparison(outcomes), votes, None if verdict is None else gate(verdict))
    assert found is kept
    assert words in reason


def test_report_shows_the_control_and_says_automatic() -> None:
    child, control = comparison([1] * 20 + [0] * 4), replace(comparison([0] * 24), name="shuffled labels")
    record = {
        "round": 1,
        "kept": True,
        "reason": "better",
        "preferences": "12 pairs.",
        "comparisons": [to_dict(child), to_dict(control)],
        "video_votes": None,
        "gate": gate("inconclusive").to_dict(),
        "seconds": 600,
    }
    text = report([json.loads(json.dumps(record))])
    assert "`automatic`; no person voted" in text
    assert "| child | 20 | 4 | 0 | 6.00 |" in text
    assert "| shuffled labels | 0 | 24 | 0 | none | none |" in text
    assert "clip: inconclusive, so it is" in text


def test_prompts_differ_and_splits_never_meet() -> None:
    tuning, held_out = scene_prompts(30, (0, 1), "train"), scene_prompts(30, (0, 1), "held_out")
    assert len(set(tuning)) == len(set(held_out)) == 30
    assert not set(tuning) & set(held_out)
    assert tuning == scene_prompts(30, (0, 1), "train")
    assert tuning != scene_prompts(30, (0, 2), "train")


def test_the_share_of_two_objects_is_exact_and_spread_evenly() -> None:
    prompts = scene_prompts(12, (0, 1), "held_out", pair_share=0.25)
    assert [" and " in prompt for prompt in prompts] == [False, False, False, True] * 3
    assert scene_prompts(12, (0, 1), "train", pair_share=0) == scene_prompts(12, (0, 1), "train")


def test_more_prompts_than_there_are_is_said() -> None:
    with pytest.raises(MagicVideoError, match="there are 595 such prompts, not 900"):
        scene_prompts(900, (0, 1), "held_out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baselines": ("sft", "dpo")}, "dpo is the child's method"),
        ({"pair_share": 1.5}, "pair_share must be from 0 to 1"),
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"held_out": 4}, "12 videos of 4 held-out prompts"),
        ({"tuning": {"checkpoint": "x"}}, "set by the round itself"),
    ],
)
def test_wrong_settings_are_refused(changes: Mapping[str, object], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        ImproveConfig(**changes)  # type: ignore[arg-type]


def test_unknown_option_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="unknown option 'betta'"):
        improve(tmp_path, ImproveConfig(tuning={"betta": 1}))
    assert not (tmp_path / "round-01").exists()


def test_no_verdict_has_no_ratio() -> None:
    assert preference_of([0, 0], ["x", "y"]) == Votes(
        good=0, same=2, bad=0, ratio=1.0, low=None, high=None, method="none"
    )


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> str:
    """Write the embedded weights with the smallest sizes and two steps a stage."""
    from magicvideo.config import I2VConfig, T2IConfig, V2VConfig
    from magicvideo.pipeline import MagicVideoPipeline

    pipe = MagicVideoPipeline.from_pretrained("sprites")
    pipe.config = replace(
        pipe.config,
        t2i=T2IConfig(size=48, num_inference_steps=2),
        i2v=I2VConfig(size=32, num_frames=8, num_inference_steps=2),
        v2v=V2VConfig(size=48, num_inference_steps=2, strength=0.5),
    )
    pipe.save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


@pytest.mark.slow
def test_a_round_is_resumed_recorded_and_refuses_other_settings(
    small_checkpoint: str, tmp_path: Path
) -> None:
    tuning = {"steps": 2, "batch_size": 2, "rank": 2, "warmup": 1}
    config = ImproveConfig(
        checkpoint=small_checkpoint, prompts=4, seeds=2, held_out=3, videos=2, band=0.0, tuning=tuning
    )
    said: list[str] = []
    root = tmp_path / "run"
    best = improve(root, config, say=said.append, progress=False)
    record = json.loads((root / "round-01" / "round.json").read_text())
    assert best == (str(root / record["child"]) if record["kept"] else small_checkpoint)
    assert [item["name"] for item in record["comparisons"]] == ["child", "shuffled labels"]
    votes = record["video_votes"]
    assert votes["good"] + votes["same"] + votes["bad"] == 2
    assert [row["metric"] for row in record["gate"]["metrics"]][:2] == ["clip", "temporal"]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert improve(root, config, progress=False) == best
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"report.md"}
    with pytest.raises(EvaluationError, match="differs in seeds"):
        improve(root, replace(config, seeds=3), progress=False)
