"""Training the interpolator: the truth it is shown, its losses, and a run that is interrupted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import ModuleDict

from magicvideo.training.gaps import GapPool, gap_pool
from magicvideo.training.vfi import (
    GapBatch,
    build_discriminators,
    build_interpolator,
    cadence_loss,
    charbonnier,
    draw_batch,
    evaluate,
    generator_loss,
    laplacian_loss,
    reconstruction_loss,
    sharpness_loss,
    train_vfi,
)
from magicvideo.vfi.baselines import fade, hold
from magicvideo.vfi.flow import warp
from magicvideo.vfi.interpolator import Interpolator

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
    assert float(reconstruction_loss(batch.frames, batch)) == pytest.approx(0, abs=1e-7)


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


def test_sharpness_term_is_the_logarithm_of_the_ratio(pool: GapPool) -> None:
    image = pool.frames[:1, 0].float() / 255
    faded = 0.5 + (image - 0.5) / 2  # a quarter of the variance
    assert float(sharpness_loss(faded, image)) == pytest.approx(np.log(4), abs=0.1)
    assert float(sharpness_loss(image, faded)) == pytest.approx(np.log(4), abs=0.1)


def test_flow_of_the_rim_goes_beyond_it(pool: GapPool) -> None:
    """Moved by its true flow, a keyframe keeps one contour: the flow does not end within it."""
    errors = []
    for index in range(len(pool.frames)):
        flow = F.interpolate(pool.flow[index : index + 1, 0].float(), scale_factor=4, mode="bilinear")
        moved = warp(pool.frames[index : index + 1, 0].float() / 255, flow[:, :2], "bicubic")
        true = pool.frames[index : index + 1, 1].float() / 255
        errors.append(float((moved - true).abs().amax()))
    assert np.median(errors) < 0.3


def test_embedded_interpolator_is_small() -> None:
    model = build_interpolator()
    values = sum(value.numel() for value in model.state_dict().values())
    assert sum(value.numel() for value in model.parameters()) <= 500_000
    assert 2 * values <= 1_000_000  # bytes in half precision


def test_both_sides_learn_from_one_loss(pool: GapPool) -> None:
    torch.manual_seed(0)
    model, critics = build_interpolator(), build_discriminators()
    batch = draw_batch(pool, 1, 32, np.random.default_rng(0))
    alone = generator_loss(model, None, batch)
    alone.backward()
    assert all(value.grad is None for value in critics.parameters())
    generator_loss(model, critics, batch).backward()
    for module in (model.generator, model.fusion, critics):
        assert any(
            float(value.grad.abs().max()) > 0 for value in module.parameters() if value.grad is not None
        )


def _train(folder: Path, pool: GapPool, steps: int = 3, seed: int = 0) -> dict[str, object]:
    few = dataclasses.replace(pool, frames=pool.frames[:1])
    return train_vfi(
        folder,
        steps,
        seed,
        pool=pool,
        validation=few,
        batch_size=1,
        crops=(32, 32),
        flow_steps=2,
        edsc_steps=1,
        save_every=1,
        progress=False,
    )


def test_interrupted_run_ends_as_an_uninterrupted_one(
    pool: GapPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(tmp_path / "whole", pool)

    def fails_with_discriminators(model: Interpolator, critics: ModuleDict | None, batch: GapBatch) -> Tensor:
        if critics is not None:
            raise KeyboardInterrupt
        return generator_loss(model, critics, batch)

    monkeypatch.setattr("magicvideo.training.vfi.generator_loss", fails_with_discriminators)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", pool)
    monkeypatch.undo()
    assert _train(tmp_path / "parts", pool)["sha256"] == whole["sha256"]


def test_model_is_left_in_half_precision_with_its_recipe(pool: GapPool, tmp_path: Path) -> None:
    recipe = _train(tmp_path, pool, steps=1, seed=7)
    weights = load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    written = json.loads((tmp_path / "model" / "recipe.json").read_text())
    assert all(value.dtype in (torch.half, torch.int64) for value in weights.values())
    assert not any("discriminator" in key or "main." in key for key in weights)
    assert written == json.loads(json.dumps(recipe))
    assert written["seed"] == 7
    assert {"flow", "vqgan", "edsc", "validation", "sha256"} <= written.keys()
    assert written["validation"].keys() == {"combined", "ema", "edsc", "blend", "repeat"}
