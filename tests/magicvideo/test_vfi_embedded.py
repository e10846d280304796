"""The interpolator in the package: it is the one its recipe names, and it beats the baselines."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import magicvideo
from magicvideo.training.gaps import THIRDS, GapPool, gap_pool
from magicvideo.training.vfi import evaluate
from magicvideo.vfi.baselines import fade, hold
from magicvideo.vfi.interpolator import Interpolator

torch.set_num_threads(1)

FOLDER = Path(magicvideo.__file__).parent / "weights" / "sprites" / "interpolator"


@pytest.fixture(scope="module")
def model() -> Interpolator:
    return Interpolator.from_pretrained(FOLDER, torch_dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def held_out() -> GapPool:
    return gap_pool(2, 264, 11, split="held_out", progress=False)


def test_weights_are_those_of_the_recipe_and_small() -> None:
    weights = (FOLDER / "diffusion_pytorch_model.safetensors").read_bytes()
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    assert hashlib.sha256(weights).hexdigest() == recipe["sha256"]
    assert len(weights) < 2_000_000


def test_beats_blend_and_repeat_on_moving_content(model: Interpolator, held_out: GapPool) -> None:
    ours, faded, held = (evaluate(predict, held_out) for predict in (model.predict, fade, hold))
    assert ours["psnr_moving_db"] > faded["psnr_moving_db"] + 2
    assert ours["psnr_moving_db"] > held["psnr_moving_db"] + 2


def test_a_still_clip_stays_still(model: Interpolator, held_out: GapPool) -> None:
    keyframe = held_out.frames[:1, 0].float() / 255
    between = model.predict(keyframe, keyframe, THIRDS)
    assert (between - keyframe[:, None]).abs().mean() < 1 / 255
