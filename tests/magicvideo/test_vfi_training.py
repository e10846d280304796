"""Training the interpolator: the truth it is shown, its losses, and a run that is interrupted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from magicvideo.training.vfi import (
    GapPool,
    cadence_loss,
    charbonnier,
    draw_batch,
    evaluate,
    gap_loss,
    gap_pool,
    laplacian_loss,
    train_vfi,
)
from magicvideo.vfi.baselines import fade, hold
from magicvideo.vfi.flow import warp

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pool() -> GapPool:
    return gap_pool(4, 64, 0, progress=False)


def test_pool_is_deterministic_and_has_no_held_out_scene(pool: GapPool) -> None:
    again = gap_pool(4, 64, 0, progress=False)
    held_out = gap_pool(4, 64, 0, split="held_out", progress=False)
    assert torch.equal(pool.frames, again.frames)
    assert not torch.equal(pool.frames, held_out.frames)


def test_true_flow_carries_keyframes_to_the_time_between(pool: GapPool) -> None:
    """However a draw is mirrored and swapped, its true flow moves keyframes closer to the true frames."""
    plain, moved = [], []
    for seed in range(12):
        batch = draw_batch(pool, 2, 64, np.random.default_rng(seed))
        for which in range(2):
            flow = F.interpolate(batch.flow[:, which], scale_factor=4, mode="bilinear")
            for keyframe, part in ((batch.first, flow[:, :2]), (batch.second, flow[:, 2:])):
                plain.append(float((keyframe - batch.frames[:, which]).square().mean()))
                moved.append(float((warp(keyframe, part) - batch.frames[:, which]).square().mean()))
    assert np.mean(moved) < 0.7 * np.mean(plain)


def test_losses_of_the_truth_are_zero(pool: GapPool) -> None:
    batch = draw_batch(pool, 2, 64, np.random.default_rng(0))
    assert float(charbonnier(batch.frames, batch.frames)) == pytest.approx(0, abs=1e-7)
    assert float(laplacian_loss(batch.frames[:, 0], batch.frames[:, 0])) == 0
    assert float(cadence_loss(batch, batch.frames)) == 0


def test_cadence_term_punishes_frames_that_hug_the_keyframes() -> None:
    pool = gap_pool(2, 64, 3, progress=False)
    batch = draw_batch(pool, 2, 64, np.random.default_rng(1))
    nearest = torch.stack([batch.first, batch.second], 1)
    order = batch.time.argsort(1)
    hugging = nearest.gather(1, order.argsort(1)[:, :, None, None, None].expand_as(nearest))
    assert float(cadence_loss(batch, hugging)) > 0


def test_evaluate_orders_the_baselines(pool: GapPool) -> None:
    faded, held = evaluate(fade, pool), evaluate(hold, pool)
    assert faded["psnr_moving_db"] > held["psnr_moving_db"]
    assert faded["cadence_ratio"] == pytest.approx(1, abs=1e-3)
    assert held["sharpness"] > faded["sharpness"]


def test_interrupted_run_ends_as_an_uninterrupted_one(
    pool: GapPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str) -> dict[str, object]:
        few = dataclasses.replace(pool, frames=pool.frames[:1])
        options = {"batch_size": 1, "crops": (32, 32), "flow_steps": 2, "save_every": 1, "progress": False}
        return train_vfi(tmp_path / folder, 3, 0, pool=pool, validation=few, **options)

    whole = run("whole")
    steps = iter([gap_loss])  # and then the power fails
    monkeypatch.setattr("magicvideo.training.vfi.gap_loss", lambda model, batch: next(steps)(model, batch))
    with pytest.raises(StopIteration):
        run("parts")
    monkeypatch.undo()
    assert run("parts")["sha256"] == whole["sha256"]


def test_model_is_left_in_half_precision_with_its_recipe(pool: GapPool, tmp_path: Path) -> None:
    recipe = train_vfi(
        tmp_path, 1, 7, pool=pool, validation=pool, flow_steps=1, batch_size=1, crops=(32, 32), progress=False
    )
    weights = load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    written = json.loads((tmp_path / "model" / "recipe.json").read_text())
    assert all(value.dtype == torch.half for value in weights.values())
    assert written == json.loads(json.dumps(recipe))
    assert written["seed"] == 7
    assert {"flow", "edsc", "interpolator", "blend", "repeat", "sha256"} <= written.keys()
