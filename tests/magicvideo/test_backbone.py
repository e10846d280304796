"""The shared backbone: inflated without change, spatial layers in memory once, frames at true positions."""

import pytest
import torch
from diffusers import DDIMScheduler

from magicvideo.backbone import (
    check_num_frames,
    extract_motion_adapter,
    frame_positions,
    inflate,
    zero_motion_output,
)
from magicvideo.components import Components, check_betas
from magicvideo.errors import MagicVideoError
from magicvideo.sprites import architecture


def inputs(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, frames, 9, 9, generator=generator)
    states = torch.randn(1, 8, architecture.TEXT_DIM, generator=generator)
    return latents, states.expand(frames, -1, -1)


def test_zero_adapter_leaves_the_image_model_as_it_is() -> None:
    unet, adapter = architecture.build_unet(), architecture.build_motion_adapter()
    zero_motion_output(adapter)
    latents, states = inputs(4)
    with torch.no_grad():
        images = unet(latents[0].transpose(0, 1), 500, states).sample
        video = inflate(unet, adapter)(latents, 500, states).sample
    assert torch.allclose(video[0].transpose(0, 1), images, atol=1e-5)


def test_spatial_layers_of_both_stages_are_the_same_objects(components: Components) -> None:
    spatial = {
        name: value for name, value in components.i2v_unet.named_parameters() if "motion_modules" not in name
    }
    other = dict(components.v2v_unet.named_parameters())
    assert all(other[name] is value for name, value in spatial.items())
    motion = [name for name in other if "motion_modules" in name]
    assert motion
    assert not any(other[name] is dict(components.i2v_unet.named_parameters())[name] for name in motion)


def test_motion_adapter_round_trip_is_exact() -> None:
    unet, adapter = architecture.build_unet(), architecture.build_motion_adapter()
    taken = extract_motion_adapter(inflate(unet, adapter), adapter)
    assert all(torch.equal(value, taken.state_dict()[key]) for key, value in adapter.state_dict().items())


def test_consecutive_positions_are_what_the_model_uses_anyway() -> None:
    unet = inflate(architecture.build_unet(), architecture.build_motion_adapter())
    latents, states = inputs(4)
    with torch.no_grad():
        plain = unet(latents, 500, states).sample
        with frame_positions(unet, torch.arange(4)[None]):
            same = unet(latents, 500, states).sample
        with frame_positions(unet, torch.tensor([[0, 9, 20, 31]])):
            spread = unet(latents, 500, states).sample
        after = unet(latents, 500, states).sample
    assert torch.equal(plain, same)
    assert torch.equal(plain, after)
    assert not torch.allclose(plain, spread)


def test_more_frames_than_positions_is_one_sentence() -> None:
    with pytest.raises(MagicVideoError, match="33 frames asked of a motion adapter with 32 positions"):
        check_num_frames(architecture.build_motion_adapter(), 33)


def test_wrong_betas_are_refused() -> None:
    check_betas(architecture.build_scheduler())
    with pytest.raises(MagicVideoError, match="beta_schedule='scaled_linear'"):
        check_betas(DDIMScheduler(beta_schedule="scaled_linear"))
