import json
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from evaluation.ablation.analysis import AblationResult, analyse
from evaluation.ablation.arms import arms_of, chain_of, systems_of
from evaluation.ablation.cost import AblationCost, cost_of
from evaluation.ablation.effects import effect, interaction, main_effect, preference, shapley
from evaluation.ablation.outputs import to_markdown, write_result
from evaluation.ablation.run import run_ablation
from evaluation.ablation.specification import TEMPLATE, AblationSpec, read_ablation
from evaluation.cli.ablate import ablate
from evaluation.clips import side_by_side, write_clip
from evaluation.engine.record import VideoRecord
from evaluation.errors import EvaluationError

PARTS = ("a", "b", "c")
COST = AblationCost(whole=10, spent=4, full_runs=12, unknown=0)


def ablation(**values: Any) -> AblationSpec:
    given: dict[str, Any] = {"prompts": [{"texts": ["x"]}], "metrics": ["clip"], "leave_one_out": ["v2v"]}
    return AblationSpec.model_validate(given | values)


def scores(
    values: dict[str, list[float]], metric: str = "clip", signature: str = "s"
) -> list[dict[str, Any]]:
    return [
        {
            "system": name,
            "prompt": f"p{index}",
            "seed": 0,
            "metric": metric,
            "signature": signature,
            "value": value,
        }
        for name, row in values.items()
        for index, value in enumerate(row)
    ]


def subsets(function: Any) -> dict[frozenset[str], np.ndarray]:
    return {
        frozenset(chosen): np.atleast_1d(np.asarray(function(set(chosen)), float))
        for size in range(len(PARTS) + 1)
        for chosen in combinations(PARTS, size)
    }


def test_shapley_of_the_glove_game_and_efficiency() -> None:
    # One left glove (a), two right ones (b, c); a pair is worth 1: 2/3, 1/6, 1/6.
    shares = shapley(subsets(lambda s: float("a" in s and bool(s & {"b", "c"}))), PARTS)
    assert [float(shares[part][0]) for part in PARTS] == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    rng = np.random.default_rng(0)
    values = {key: rng.normal(size=5) for key in subsets(lambda s: 0)}
    shares = shapley(values, PARTS)
    assert sum(shares.values()) == pytest.approx(values[frozenset(PARTS)] - values[frozenset()])


def test_effects_of_an_additive_and_of_an_interacting_design() -> None:
    worth = {"a": 3.0, "b": -1.0, "c": 0.5}
    additive = subsets(lambda s: sum(worth[part] for part in s))
    for part in PARTS:
        assert main_effect(additive, PARTS, part)[0] == pytest.approx(worth[part])
        assert shapley(additive, PARTS)[part][0] == pytest.approx(worth[part])
    assert interaction(additive, PARTS, "a", "b")[0] == pytest.approx(0)
    both = subsets(lambda s: 2.0 * ({"a", "b"} <= s))
    assert interaction(both, PARTS, "a", "b")[0] == pytest.approx(2)
    assert interaction(both, PARTS, "a", "c")[0] == pytest.approx(0)
    assert main_effect(both, PARTS, "a")[0] == pytest.approx(1)


def test_effect_is_students_t() -> None:
    values = np.array([0.3, -0.1, 0.4, 0.8, 0.2])
    found = effect(values, 0.95)
    oracle = stats.ttest_1samp(values, 0)
    interval = oracle.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((oracle.pvalue, interval.low, interval.high))
    assert effect([0.0, 0.0], 0.95).p == 1
    assert effect([1.0], 0.95).p is None


def test_automatic_preference_counts_within_the_band_and_inverts_when_sides_swap() -> None:
    advantages = [3, 2, 0.5, -0.5, 0, -2]
    found, swapped = (
        preference(advantages, 0.5, 0.95),
        preference([-value for value in advantages], 0.5, 0.95),
    )
    assert (found.good, found.same, found.bad) == (2, 3, 1)
    assert found.ratio == pytest.approx(5 / 4)
    assert swapped.ratio == pytest.approx(4 / 5)
    assert found.interval is not None
    assert found.interval[0] < 5 / 4 < found.interval[1]


def test_designs_share_arms_and_keep_the_order_of_parts() -> None:
    spec = ablation(
        leave_one_out=["vfi", "v2v"],
        add_one_in=["i2v", "v2v", "vfi"],
        factorial=["vfi", "v2v"],
        sweeps={"v2v.strength": [0.2]},
    )
    arms = {arm.name: arm for arm in arms_of(spec)}
    assert next(iter(arms)) == "full"
    assert set(arms) == {"full", "-v2v", "-vfi", "-v2v-vfi", "-i2v-v2v-vfi", "v2v.strength=0.2"}
    assert chain_of(spec) == ["-i2v-v2v-vfi", "-v2v-vfi", "-vfi", "full"]
    assert arms["-v2v-vfi"].spec.arms == ("-v2v", "-vfi")
    assert (arms["-v2v"].stage, arms["-vfi"].stage, arms["v2v.strength=0.2"].stage) == ("v2v", "vfi", "v2v")
    early = systems_of(ablation(at_stage=True), arms_of(ablation(at_stage=True)))
    assert set(early) == {"full", "-v2v", "full@v2v", "-v2v@v2v"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"leave_one_out": ["t2i"]}, "unknown part 't2i'; known: prior"),
        ({"leave_one_out": []}, "at least one of leave_one_out"),
        ({"factorial": ["v2v"]}, "at least two parts"),
        ({"metrics": []}, "without a metric says nothing"),
        ({"factors": {"mine": {}}}, "name arms or changes"),
        ({"ties": {"clap": 1}}, "unknown metric 'clap'"),
    ],
)
def test_impossible_ablation_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ablation(**values)


def test_template_is_valid_and_not_overwritten(tmp_path: Path) -> None:

    app = typer.Typer()
    app.command()(ablate)
    file = tmp_path / "a.yaml"
    assert CliRunner().invoke(app, [str(file), "--init"]).exit_code == 0
    assert len(arms_of(read_ablation(file))) == 8
    assert isinstance(CliRunner().invoke(app, [str(file), "--init"]).exception, EvaluationError)
    lines = TEMPLATE.format(name="x").splitlines()[1:]
    file.write_text("\n".join(line.removeprefix("# ") for line in lines))
    assert len(arms_of(read_ablation(file))) == 12


def result_of(spec: AblationSpec, rows: list[dict[str, Any]]) -> AblationResult:
    return analyse(spec, arms_of(spec), rows, COST, prompts=6)


def test_analysis_pairs_by_prompt_orients_and_corrects() -> None:
    full, worse = [5.0, 6, 7, 8, 9, 7], [4.0, 5, 6.5, 7, 8, 6]
    rows = scores({"full": full, "-v2v": worse})
    rows += scores({"full": worse, "-v2v": full}, metric="warp_residual")
    rows += scores({"full": full, "-v2v": worse}, metric="speed")
    found = {row.metric: row for row in result_of(ablation(ties={"clip": 0.75}), rows).rows}
    clip, warp, speed = found["clip"], found["warp_residual"], found["speed"]
    assert clip.advantage.mean == pytest.approx(5.5 / 6)
    assert warp.advantage.mean == pytest.approx(clip.advantage.mean)  # lower is better there
    assert clip.preference is not None
    assert (clip.preference.good, clip.preference.same, clip.preference.bad) == (5, 1, 0)
    assert speed.preference is None
    assert speed.p_holm is None
    assert clip.p_holm == pytest.approx(2 * (clip.advantage.p or 0))
    assert (clip.full, clip.without) == (pytest.approx(7), pytest.approx(36.5 / 6))


def test_values_of_another_signature_are_not_compared() -> None:
    rows = scores({"full": [1.0, 2]}) + scores({"-v2v": [1.0, 2]}, signature="other")
    with pytest.raises(EvaluationError, match="no metric has values"):
        result_of(ablation(), rows)
    both = result_of(ablation(leave_one_out=["v2v", "vfi"]), rows + scores({"-vfi": [1.0, 1]}))
    assert {row.arm for row in both.rows} == {"-vfi"}
    assert any(note.startswith("-v2v: no value comparable") for note in both.notes)


def test_missing_values_leave_a_prompt_out_and_are_counted() -> None:
    rows = scores({"full": [1.0, 2, 3], "-v2v": [1.0, 2, 2]})
    rows[0]["value"] = None
    result = result_of(ablation(), rows)
    assert (result.rows[0].advantage.n, result.rows[0].left_out) == (2, 1)


def test_factorial_and_chain_are_reported_and_disagreement_is_said() -> None:
    spec = ablation(leave_one_out=["v2v"], add_one_in=["v2v", "vfi"], factorial=["v2v", "vfi"])
    noise = np.array([0.0, 0.01, -0.01, 0.02])
    # V2V helps where VFI follows and hurts where it does not.
    values = {"-v2v-vfi": 5 + noise, "-vfi": 4 + 2 * noise, "-v2v": 6 - noise, "full": 8 + noise}
    result = result_of(spec, scores({name: list(row) for name, row in values.items()}))
    found = {(row.kind, row.name): row.effect.mean for row in result.factorial}
    assert found["interaction", "v2v x vfi"] == pytest.approx(3, abs=0.05)
    total = found["Shapley share", "v2v"] + found["Shapley share", "vfi"]
    assert total == pytest.approx(float(np.mean(values["full"] - values["-v2v-vfi"])))
    assert [step.added for step in result.steps] == ["v2v", "vfi"]
    assert any("disagree in sign" in note for note in result.notes)


def record(system: str, stages: list[tuple[str, str, float, bool]]) -> VideoRecord:
    rows = [
        {"stage": stage, "digest": digest, "seconds": seconds, "reused": reused, "peak_memory": None}
        for stage, digest, seconds, reused in stages
    ]
    return VideoRecord(
        system=system, config_digest="c", prompt="p", seed=0, outcome="made", stages=rows, seconds=1
    )


def test_cost_counts_reused_outputs_as_if_made_and_as_they_were() -> None:
    full = record("full", [("t2i", "t", 4, False), ("i2v", "i", 10, False), ("vfi", "v", 2, False)])
    arm = record("-vfi", [("t2i", "t", 0.1, True), ("i2v", "i", 0.1, True), ("vfi", "w", 1, False)])
    cost = cost_of([arm, full])
    assert (cost.whole, cost.spent) == (pytest.approx(31), pytest.approx(17.2))
    assert cost.saved == pytest.approx(1 - 17.2 / 31)
    assert cost.full_runs == pytest.approx(32)
    assert cost.arms["-vfi"].by_stage == {"t2i": 4, "i2v": 10, "vfi": 1}
    orphan = record("x", [("t2i", "unknown", 0.1, True)])
    assert (cost_of([orphan]).unknown, cost_of([orphan]).whole) == (1, 0)


def test_result_is_written_as_tables(tmp_path: Path) -> None:
    result = result_of(ablation(), scores({"full": [1.0, 2, 3], "-v2v": [1.0, 1, 2]}))
    paths = write_result(tmp_path, result)
    content = json.loads(paths[0].read_text())
    assert content["rows"][0]["preference"]["good"] == 2
    assert content["saved"] == pytest.approx(0.6)
    assert "advantage_mean" in paths[1].read_text().splitlines()[0]
    text = to_markdown(result, "mine")
    assert "| -v2v | clip | 2.00 | 1.33 |" in text
    assert "which saved 60%" in text


def test_clips_side_by_side_share_time_and_height(tmp_path: Path) -> None:
    from fractions import Fraction

    left, right = tmp_path / "l.mp4", tmp_path / "r.mp4"
    write_clip(left, np.full((8, 32, 32, 3), 40, np.uint8), Fraction(8))
    write_clip(right, np.full((4, 16, 24, 3), 200, np.uint8), Fraction(4))
    side_by_side(left, right, tmp_path / "both.mp4")
    with av.open(str(tmp_path / "both.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert (len(frames), frames[0].shape) == (8, (32, 80, 3))
    assert abs(frames[5][16, 16].mean() - 40) < 6
    assert abs(frames[5][16, 60].mean() - 200) < 6


TINY = """\
folder: run
base:
  preset: sprites
  changes: {t2i.size: 48, t2i.num_inference_steps: 2, i2v.size: 32, i2v.num_frames: 3, i2v.num_inference_steps: 2,
            v2v.size: 48, v2v.num_inference_steps: 2, v2v.strength: 0.5}
leave_one_out: [v2v, vfi]
sweeps: {vfi.factor: [2]}
at_stage: true
prompts:
  - {suite: sprites, sample: 3}
metrics: [clip, temporal]
"""


@pytest.mark.slow
def test_ablation_of_the_embedded_checkpoint_reuses_resumes_and_drafts_a_study(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TINY)
    result = run_ablation(file, study="stages", progress=False)
    assert result.arms == ("full", "-v2v", "-vfi", "vfi.factor=2")
    assert {(row.arm, row.at) for row in result.rows if row.metric == "clip"} == {
        ("-v2v", "end"),
        ("-vfi", "end"),
        ("vfi.factor=2", "end"),
        ("-v2v", "v2v"),
    }
    assert result.cost.saved > 0.3
    assert len(result.examples) == 9
    assert all((tmp_path / "run" / item["file"]).exists() for item in result.examples)
    assert any("frames per second" in note for note in result.notes)
    again = run_ablation(file, study="stages", progress=False)
    assert again.rows == result.rows
    assert again.cost == result.cost
