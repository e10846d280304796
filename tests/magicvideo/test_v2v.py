"""V2V: bit-equal to the diffusers pipeline it extends, for several videos, at odd sizes, whatever the chunks."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusers import (
    AnimateDiffVideoToVideoControlNetPipeline,
    AutoencoderKL,
    ControlNetModel,
    UNetMotionModel,
)
from PIL import Image

from magicvideo.backbone import share_spatial
from magicvideo.components import Components
from magicvideo.errors import MagicVideoError
from magicvideo.reference import Reference
from magicvideo.v2v import MagicVideoV2V

PROMPTS = ["a red star", "a large blue circle"]


def stock_unet(components: Components) -> UNetMotionModel:
    """Return the backbone with diffusers' own motion modules over the very same weights."""
    unet = UNetMotionModel.from_unet2d(components.unet, components.v2v_motion)
    share_spatial(components.v2v_unet, unet)
    unet.encoder_hid_proj = components.v2v_unet.encoder_hid_proj
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    unet.load_state_dict(components.v2v_unet.state_dict(), assign=True)
    return unet.eval().requires_grad_(False)  # products of weights with gradients round otherwise


def build(cls: Any, components: Components, unet: UNetMotionModel, **changes: Any) -> Any:
    names = (
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "feature_extractor",
        "image_encoder",
        "controlnet",
    )
    parts = {name: getattr(components, name) for name in names} | changes
    pipe = cls(**parts, unet=unet, motion_adapter=components.v2v_motion)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def controlnet(components: Components) -> ControlNetModel:
    """Return the random ControlNet with an embedding of its condition that is not zero."""
    torch.manual_seed(0)
    copied = deepcopy(components.controlnet)
    torch.nn.init.normal_(copied.controlnet_cond_embedding.conv_out.weight)
    return copied


@pytest.fixture
def v2v(components: Components, controlnet: ControlNetModel) -> MagicVideoV2V:
    return build(MagicVideoV2V, components, components.v2v_unet, controlnet=controlnet)


@pytest.fixture
def reference(components: Components) -> Reference:
    pixels = torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(7))
    return Reference(Image.fromarray((pixels * 255).byte().numpy()), components.feature_extractor)


@pytest.fixture(scope="module")
def gaussian_vae() -> AutoencoderKL:
    """Return an autoencoder that draws its latents, as Stable Diffusion's does."""
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(3, 3, *blocks, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1)
    return vae.eval().requires_grad_(False)


def video(seed: int) -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def call(components: Components, reference: Reference, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a pipeline's call at stock settings, two of four steps long."""
    return {
        "prompt": PROMPTS[0],
        "video": video(1),
        "height": 32,
        "width": 32,
        "num_inference_steps": 4,
        "strength": 0.5,
        "generator": torch.Generator().manual_seed(0),
        "ip_adapter_image_embeds": reference.embeds(components.image_encoder, "text and image"),
        "conditioning_frames": [reference.image] * 3,
        "output_type": "pt",
    } | changes


@torch.no_grad()
def test_one_prompt_is_bit_equal_to_diffusers(
    components: Components, v2v: MagicVideoV2V, reference: Reference, gaussian_vae: AutoencoderKL
) -> None:
    unet = stock_unet(components)
    for vae in (components.vae, gaussian_vae):
        changes = {"vae": vae, "controlnet": v2v.controlnet}
        stock = build(AnimateDiffVideoToVideoControlNetPipeline, components, unet, **changes)
        ours = build(MagicVideoV2V, components, v2v.unet, **changes)
        expected = stock(**call(components, reference)).frames
        assert torch.equal(ours(**call(components, reference)).frames, expected)


@torch.no_grad()
def test_two_videos_give_both(components: Components, v2v: MagicVideoV2V, reference: Reference) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    videos = torch.stack([video(1), video(2)])
    latents = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shared = {"latents": latents, "generator": generators, "video": None}
    both = v2v(**call(components, reference, prompt=PROMPTS, **shared)).frames
    assert both.shape == (2, *videos.shape[1:])
    for index, prompt in enumerate(PROMPTS):
        alone = call(components, reference, prompt=prompt, latents=latents[index : index + 1], video=None)
        assert torch.allclose(both[index], v2v(**alone).frames[0], atol=1e-5)


def refine(pipe: MagicVideoV2V, reference: Reference, frames: torch.Tensor, **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {
        "size": 48,
        "strength": 0.5,
        "num_inference_steps": 4,
        "guidance_scale": 4.0,
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe.refine(PROMPTS[0], frames, reference, **(settings | changes))


def test_chunks_change_neither_noise_nor_frames(
    components: Components, v2v: MagicVideoV2V, reference: Reference, gaussian_vae: AutoencoderKL
) -> None:
    pipe = build(MagicVideoV2V, components, v2v.unet, vae=gaussian_vae, controlnet=v2v.controlnet)
    whole = refine(pipe, reference, video(1), size=40, decode_chunk_size=16)
    single = refine(pipe, reference, video(1), size=40, decode_chunk_size=1)
    assert torch.allclose(single, whole, atol=1e-5)


def test_sequential_guidance_equals_batched(v2v: MagicVideoV2V, reference: Reference) -> None:
    batched = refine(v2v, reference, video(1))
    assert torch.allclose(refine(v2v, reference, video(1), guidance="sequential"), batched, atol=1e-5)


def test_silent_controlnet_at_end_zero(v2v: MagicVideoV2V, reference: Reference) -> None:
    silent = refine(v2v, reference, video(1), controlnet_scale=0)
    assert torch.equal(refine(v2v, reference, video(1), control_guidance_end=0), silent)
    assert not torch.equal(refine(v2v, reference, video(1)), silent)


def test_strength_without_a_step_is_one_sentence(v2v: MagicVideoV2V, reference: Reference) -> None:
    with pytest.raises(MagicVideoError, match=r"strength 0\.2 of 4 steps leaves no denoising step"):
        refine(v2v, reference, video(1), strength=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("size", [152, 264])
def test_odd_latents_at_32_frames(v2v: MagicVideoV2V, reference: Reference, size: int) -> None:
    frames = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    settings = {"size": size, "num_inference_steps": 2, "guidance_scale": 1.0, "decode_chunk_size": 2}
    refined = refine(v2v, reference, frames, **settings)
    assert refined.shape == (32, 3, size, size)
    assert bool(torch.isfinite(refined).all())
