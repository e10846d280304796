import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.errors import EvaluationError
from evaluation.gate import outputs
from evaluation.gate.baselines import Baselines, plot_history
from evaluation.gate.compare import EXIT_STATUS, FROZEN, GateResult, compare
from evaluation.gate.paired import judge, paired_jackknife, paired_mean, prompts_needed, sign_test
from evaluation.gate.sides import Side, Value, read_side
from evaluation.gate.specification import TEMPLATE, GateSpec, read_gate

SPEC = GateSpec.model_validate({"metrics": {"clip": {"tolerance": 0.5}}})


def side(name: str, values: list[float], *, metric: str = "clip", signature: str = "clip|1", **more) -> Side:
    prompts = {f"v{index:03d}": f"a red star moving left, take {index}" for index in range(len(values))}
    rows = {
        key: {metric: Value(value=value, reason=None, signature=signature)}
        for key, value in zip(prompts, values, strict=True)
    }
    return Side(name=name, prompts=prompts, values=rows, **more)


def verdict(before: list[float], after: list[float], spec: GateSpec = SPEC) -> GateResult:
    return compare(side("old", before), side("new", after), spec)


def test_mean_and_interval_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=12), rng.normal(size=12)
    found = paired_mean(after - before, 0.9)
    wanted = stats.ttest_rel(after, before).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-12)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=20)
    found = paired_jackknife(lambda mask: float(values[mask].mean()), 20, 0.95)
    assert found == paired_jackknife(lambda mask: float(values[mask].mean()), 20, 0.95)
    plain = paired_mean(values, 0.95)
    assert (found.mean, found.error) == pytest.approx((plain.mean, plain.error), rel=1e-12)


@pytest.mark.parametrize(
    ("shift", "wanted"), [(0.0, "pass"), (-5.0, "regression"), (5.0, "pass"), (-0.5, "inconclusive")]
)
def test_verdict_follows_the_interval(shift: float, wanted: str) -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(25, 3, 40)
    after = before + shift + rng.normal(0, 0.5, 40)
    result = verdict(list(before), list(after))
    assert result.verdict == wanted
    assert result.exit_status == EXIT_STATUS[result.verdict]
    assert wanted in outputs.text(result).splitlines()[-1]


def test_a_lower_is_better_metric_turns_round() -> None:
    spec = GateSpec.model_validate({"metrics": {"accel_ratio": {"tolerance": 0.02}}})
    still = {"static": Value(value=0.0, reason=None, signature="s")}
    before, after = (
        side(name, [value] * 10, metric="accel_ratio") for name, value in (("old", 0.1), ("new", 0.4))
    )
    for one in (before, after):
        for row in one.values.values():
            row |= still
    assert compare(before, after, spec).verdict == "regression"
    passed = compare(after, before, spec)
    assert passed.verdict == "pass"
    assert "frozen videos: pass, 0 of 10 videos froze" in outputs.text(passed)


def test_identical_sides_pass_with_no_tolerance() -> None:
    spec = GateSpec.model_validate({"metrics": {"clip": {"tolerance": 0}}})
    result = verdict([20.0, 21.5, 30.0] * 4, [20.0, 21.5, 30.0] * 4, spec)
    assert result.verdict == "pass"
    assert outputs.text(result).splitlines()[0] == "clip: pass, identical on all 12 prompts"
    assert "| 0 (identical) |" in outputs.markdown(result)
    few = verdict([20.0] * 3, [20.0] * 3, spec)
    assert (
        few.metrics[0].sentence()
        == "clip: inconclusive, identical on all 3 prompts; about 5 more would decide"
    )


def test_prompts_needed_is_the_least_number_that_decides() -> None:
    found = paired_mean(np.random.default_rng(3).normal(-0.2, 2, 30), 0.95)
    needed = prompts_needed(found, 0.5, 8, 0.95)
    assert needed is not None
    spread = found.error * np.sqrt(30)
    half = [stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) for n in (needed - 1, needed)]
    assert half[1] <= abs(found.mean + 0.5) < half[0]


def test_nothing_would_decide_a_difference_at_the_tolerance_itself() -> None:
    found = paired_mean([-1.5, 0.5], 0.95)
    assert prompts_needed(found, 0.5, 8, 0.95) is None


def test_too_few_prompts_decide_nothing() -> None:
    assert judge(paired_mean([-9.0, -9.1, -9.2], 0.95), 0.5, 8) == "inconclusive"


def test_false_alarms_stay_below_five_in_a_hundred() -> None:
    rng = np.random.default_rng(4)
    spec = GateSpec.model_validate({"metrics": {"clip": {"tolerance": 0}}})
    alarms = 0
    for _ in range(200):
        before = rng.normal(25, 3, 24)
        after = before + rng.standard_t(4, 24)
        alarms += verdict(list(before), list(after), spec).verdict == "regression"
    assert alarms <= 10


def test_seeds_of_a_prompt_count_as_one() -> None:
    before = side("old", [1.0] * 16)
    doubled = {
        key: "the same prompt" if index < 8 else prompt
        for index, (key, prompt) in enumerate(before.prompts.items())
    }
    one, two = (Side(name=name, prompts=doubled, values=before.values) for name in ("old", "new"))
    assert compare(one, two, SPEC).metrics[0].n == 9


def test_sides_that_do_not_pair_up_are_incomparable() -> None:
    other = side("new", [1.0] * 9)
    found = compare(side("old", [1.0] * 10), other, SPEC)
    assert found.exit_status == 2
    assert "1 videos of old are not in new, e.g. v009" in found.sentence()


def test_values_measured_differently_are_never_subtracted() -> None:
    before = side("old", [1.0] * 10, signature="clip|1|sampling:native|fps:30")
    after = side("new", [1.0] * 10, signature="clip|1|sampling:native|fps:10")
    found = compare(before, after, SPEC)
    assert found.verdict == "incomparable"
    assert "fps:30 against fps:10" in found.metrics[0].sentence()


def test_unreadable_videos_are_named() -> None:
    broken = side("new", [1.0] * 10, failures=("clip.mp4 is cut short",))
    assert "clip.mp4 is cut short" in compare(side("old", [1.0] * 10), broken, SPEC).sentence()


def test_a_candidate_that_froze_is_a_regression_although_its_values_are_missing() -> None:
    spec = GateSpec.model_validate({"metrics": {"warp_residual": {"tolerance": 1}}})
    before, after = (side(name, [2.0] * 12, metric="warp_residual") for name in ("old", "new"))
    for row in before.values.values():
        row["static"] = Value(value=0.0, reason=None, signature="s")
    for key in after.values:
        frozen = Value(value=None, reason="the video is static", signature="clip|1")
        after.values[key] = {"warp_residual": frozen, "static": Value(value=1.0, reason=None, signature="s")}
    found = {row.metric: row.verdict for row in compare(before, after, spec).metrics}
    assert found[FROZEN] == "regression"
    assert sign_test(12, 0) == pytest.approx(2**-12)


@pytest.mark.parametrize("name", ["fvd", "kvd", "jedi"])
def test_set_metrics_use_the_paired_jackknife_and_refuse_few_prompts(name: str) -> None:
    rng = np.random.default_rng(5)
    spec = GateSpec.model_validate({"metrics": {name: {"tolerance": 0.1}}})
    real, good = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    before = side("old", [0.0] * 40, features=good)
    worse = side("new", [0.0] * 40, features=good + 2)
    assert compare(before, worse, spec, reference=real).verdict == "regression"
    assert compare(before, side("new", [0.0] * 40, features=good), spec, reference=real).verdict == "pass"
    few = [side(name, [0.0] * 5, features=good[:5]) for name in ("old", "new")]
    found = compare(few[0], few[1], spec, reference=real)
    assert found.verdict == "inconclusive"
    assert "a set needs 8" in found.metrics[0].sentence()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "metrics: {clip: {tolerance: 1}}\nconfidense: 0.9\n",
            "line 2: unknown key 'confidense'; allowed here: metrics",
        ),
        (
            "metrics:\n  clip: {tolerance: 1, way: up}\n",
            "line 2: unknown key 'metrics.clip.way'; allowed here: tolerance",
        ),
        ("metrics:\n  clip:\n    tolerance: much\n", "line 3: metrics.clip.tolerance"),
        ("metrics:\n  clip: {}\n", "line 2: the key 'metrics.clip.tolerance' is missing"),
        (
            "metrics: {clip: {tolerance: 1}}\nconfidence: 3\n",
            "line 2: confidence: input should be less than 1, got 3",
        ),
        ("metrics: {clap: {tolerance: 1}}\n", "line 1: metrics.clap: unknown metric; allowed: clip"),
        ("metrics: {speed: {tolerance: 1}}\n", "line 1: metrics.speed: it says nothing of better or worse"),
        (
            "metrics: {fvd_infinity: {tolerance: 1}}\n",
            "extrapolated over random subsets, so that differences",
        ),
        ("metrics: {clip: {tolerance: 1, direction: lower}}\n", "line 1: metrics.clip: higher is better"),
        ("metrics: {clip: {tolerance: 1}}\nmetrics: {}\n", "line 2: the key 'metrics' is given twice"),
        ("metrics: [\n", "no YAML"),
        ("", "allowed keys: metrics"),
    ],
)
def test_a_bad_gate_file_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(content)
    with pytest.raises(EvaluationError) as error:
        read_gate(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_template_is_a_gate(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(TEMPLATE)
    assert set(read_gate(tmp_path / "gate.yaml").metrics) == {"clip", "temporal", "sharpness"}


def test_all_outputs_say_the_same() -> None:
    result = verdict([10.0 + index for index in range(12)], [5.0 + index * 1.01 for index in range(12)])
    assert result.verdict == "regression"
    suite = ET.fromstring(outputs.junit(result).split("\n", 1)[1])[0]
    assert suite.get("failures") == "1"
    assert "Gate: regression" in outputs.markdown(result)
    assert outputs.github(result).startswith("::error title=magicvideo gate::clip: regression")


def test_sides_are_kept_and_read_again(tmp_path: Path) -> None:
    before = side("old", [1.0, 2.0, 3.0], commit="abc")
    before.write(tmp_path / "side.json")
    assert read_side(tmp_path / "side.json") == before
    (tmp_path / "other.json").write_text(json.dumps({"format": "x"}))
    with pytest.raises(EvaluationError, match="neither a folder of videos nor values kept"):
        read_side(tmp_path / "other.json")


def test_baselines_keep_a_history_that_can_be_drawn(tmp_path: Path) -> None:
    kept = Baselines(tmp_path / "baselines")
    old, new = side("old", [20.0] * 8, commit="1111111111"), side("new", [10.0] * 8, commit="2222222222")
    kept.promote("main", old)
    kept.record("main", new, compare(kept.read("main"), new, SPEC))
    history = kept.history()
    assert history[["event", "verdict", "value"]].fillna("").to_numpy().tolist() == [
        ["promote", "", 20.0],
        ["compare", "regression", 10.0],
    ]
    both = {name: side(name, [20.0] * 8, metric="warp_residual", commit=name) for name in ("calm", "worse")}
    for name, one in both.items():
        for row in one.values.values():
            value = 20.0 if name == "calm" else 10.0
            row |= {"clip": Value(value=value, reason=None, signature="c")}
            row |= {"static": Value(value=0.0, reason=None, signature="s")}
    spec = GateSpec.model_validate({"metrics": {"clip": {"tolerance": 1}, "warp_residual": {"tolerance": 1}}})
    kept.record("main", both["worse"], compare(both["calm"], both["worse"], spec))
    newest = kept.history().query("side == 'worse'").set_index("metric")["verdict"].to_dict()
    assert newest == {"clip": "regression", "static": "pass", "warp_residual": "pass"}  # each its own
    plot_history(history, tmp_path / "history.svg")
    assert "</svg>" in (tmp_path / "history.svg").read_text()
    with pytest.raises(EvaluationError, match="known: main"):
        kept.read("other")
    with pytest.raises(EvaluationError, match="no name of a baseline"):
        kept.path("../x")
