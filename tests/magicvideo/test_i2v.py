"""I2V: bit-equal to the diffusers pipeline it extends, for several prompts, at odd sizes, in each scheduler's space."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline, ControlNetModel, EulerDiscreteScheduler, UNetMotionModel
from PIL import Image

from magicvideo.backbone import share_spatial
from magicvideo.components import Components
from magicvideo.i2v import MagicVideoI2V
from magicvideo.reference import Reference

PROMPTS = ["a red star", "a large blue circle"]


def stock_unet(components: Components) -> UNetMotionModel:
    """Return the backbone with diffusers' own motion modules over the very same weights."""
    unet = UNetMotionModel.from_unet2d(components.unet, components.i2v_motion)
    share_spatial(components.i2v_unet, unet)
    unet.encoder_hid_proj = components.i2v_unet.encoder_hid_proj
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    unet.load_state_dict(components.i2v_unet.state_dict(), assign=True)
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
    pipe = cls(**parts, unet=unet, motion_adapter=components.i2v_motion)
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
def i2v(components: Components, controlnet: ControlNetModel) -> MagicVideoI2V:
    return build(MagicVideoI2V, components, components.i2v_unet, controlnet=controlnet)


@pytest.fixture
def reference(components: Components) -> Reference:
    pixels = torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(7))
    return Reference(Image.fromarray((pixels * 255).byte().numpy()), components.feature_extractor)


def call(components: Components, reference: Reference, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a pipeline's call at stock settings, two steps long."""
    prompts = changes.get("prompt", PROMPTS[0])
    videos = 1 if isinstance(prompts, str) else len(prompts)
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return {
        "prompt": prompts,
        "num_frames": 3,
        "height": 32,
        "width": 32,
        "num_inference_steps": 2,
        "latents": noise[:videos],
        "ip_adapter_image_embeds": reference.embeds(
            components.image_encoder, "text and image" if changes.get("guidance_scale", 7.5) > 1 else None
        ),
        "conditioning_frames": [reference.image] * 3,
        "output_type": "pt",
    } | changes


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_one_prompt_is_bit_equal_to_diffusers(
    components: Components, i2v: MagicVideoI2V, reference: Reference, guidance_scale: float
) -> None:
    stock = build(
        AnimateDiffControlNetPipeline, components, stock_unet(components), controlnet=i2v.controlnet
    )
    arguments = call(components, reference, guidance_scale=guidance_scale)
    assert torch.equal(i2v(**arguments).frames, stock(**arguments).frames)


@torch.no_grad()
def test_frames_with_images_of_their_own_are_bit_equal_too(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    stock = build(
        AnimateDiffControlNetPipeline, components, stock_unet(components), controlnet=i2v.controlnet
    )
    frames = [reference.image, reference.image.rotate(90), reference.image.rotate(180)]
    arguments = call(components, reference, conditioning_frames=frames)
    ours = i2v(**arguments).frames
    assert torch.equal(ours, stock(**arguments).frames)
    assert not torch.equal(ours, i2v(**call(components, reference)).frames)


@torch.no_grad()
def test_two_prompts_give_the_videos_of_both(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    both = i2v(**call(components, reference, prompt=PROMPTS)).frames
    noise = call(components, reference, prompt=PROMPTS)["latents"]
    for index, prompt in enumerate(PROMPTS):
        alone = i2v(**call(components, reference, prompt=prompt, latents=noise[index : index + 1])).frames
        assert torch.allclose(both[index], alone[0], atol=1e-5)


@torch.no_grad()
def test_two_prompts_share_images_that_differ_between_frames(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    frames = [reference.image, reference.image.rotate(90), reference.image.rotate(180)]
    both = call(components, reference, prompt=PROMPTS, conditioning_frames=frames)
    second = both | {"prompt": PROMPTS[1], "latents": both["latents"][1:]}
    assert torch.allclose(i2v(**both).frames[1], i2v(**second).frames[0], atol=1e-5)


def animate(pipe: MagicVideoI2V, reference: Reference, **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {
        "num_frames": 3,
        "size": 32,
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "prior": "matched",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe.animate(PROMPTS[0], reference, **(settings | changes))


def test_animate_is_the_diffusers_call_from_prior_latents(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    frames = animate(i2v, reference, prior="none")
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    stock = build(
        AnimateDiffControlNetPipeline, components, stock_unet(components), controlnet=i2v.controlnet
    )
    arguments = call(components, reference, latents=noise, guidance_scale=4.0, negative_prompt="")
    with torch.no_grad():
        assert torch.equal(frames, stock(**arguments).frames[0])


def test_sequential_guidance_equals_batched(i2v: MagicVideoI2V, reference: Reference) -> None:
    rows: list[int] = []
    hook = i2v.unet.conv_in.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    batched = animate(i2v, reference)
    sequential = animate(i2v, reference, guidance="sequential")
    hook.remove()
    assert rows == [6, 6, 3, 3, 3, 3]
    assert torch.allclose(sequential, batched, atol=1e-5)
    assert torch.equal(animate(i2v, reference), batched)


def test_guidance_on_the_text_keeps_the_image_in_both_branches(
    i2v: MagicVideoI2V, reference: Reference
) -> None:
    rows: list[torch.Tensor] = []
    hook = i2v.unet.encoder_hid_proj.register_forward_pre_hook(
        lambda module, inputs: rows.append(inputs[0][0])
    )
    text, both = (animate(i2v, reference, guidance_on=on) for on in ("text", "text and image"))
    hook.remove()
    embeds = reference.embeds(i2v.image_encoder, None)[0]
    assert torch.equal(rows[0], torch.cat([embeds, embeds]))
    assert torch.equal(rows[-1], torch.cat([torch.zeros_like(embeds), embeds]))
    assert not torch.allclose(text, both)


def test_sequential_without_guidance_is_one_branch(i2v: MagicVideoI2V, reference: Reference) -> None:
    alone = animate(i2v, reference, guidance_scale=1.0)
    assert torch.equal(animate(i2v, reference, guidance_scale=1.0, guidance="sequential"), alone)


def test_chunks_of_decoding_change_nothing(i2v: MagicVideoI2V, reference: Reference) -> None:
    whole = animate(i2v, reference, decode_chunk_size=16)
    assert torch.allclose(animate(i2v, reference, decode_chunk_size=1), whole, atol=1e-5)


def test_silent_controlnet_at_end_zero(i2v: MagicVideoI2V, reference: Reference) -> None:
    silent = animate(i2v, reference, controlnet_scale=0.0)
    assert torch.equal(animate(i2v, reference, control_guidance_end=0), silent)
    assert not torch.equal(animate(i2v, reference), silent)


def test_prior_strength_one_of_shift_moves_the_start(i2v: MagicVideoI2V, reference: Reference) -> None:
    weak, strong = (animate(i2v, reference, prior="shift", prior_strength=value) for value in (0.0, 1.0))
    assert torch.equal(weak, animate(i2v, reference, prior="none"))
    assert not torch.allclose(weak, strong)


def test_euler_starts_from_what_the_scheduler_calls_the_noised_reference(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    scheduler = EulerDiscreteScheduler.from_config(components.scheduler.config)
    pipe = MagicVideoI2V(**(i2v.components | {"scheduler": scheduler}))
    pipe.set_progress_bar_config(disable=True)
    seen: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    frames = animate(pipe, reference, guidance_scale=1.0)
    hook.remove()
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    video = reference.latents(components.vae, 32).unsqueeze(2).expand_as(noise)
    scheduler.set_timesteps(2)
    first = scheduler.timesteps[:1]
    expected = scheduler.scale_model_input(scheduler.add_noise(video, noise, first), first[0])
    assert torch.allclose(seen[0], expected, atol=1e-5)
    assert bool(torch.isfinite(frames).all())


def test_bfloat16_runs_close_to_float32(
    components: Components, i2v: MagicVideoI2V, reference: Reference
) -> None:
    exact = animate(i2v, reference)
    try:
        rough = animate(i2v.to(torch.bfloat16), Reference(reference.image, reference.processor))
    finally:
        i2v.to(torch.float32)
    assert rough.dtype == torch.float32
    assert bool(torch.isfinite(rough).all())
    assert float((rough - exact).abs().mean()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("size", [152, 264])
def test_odd_latents_at_32_frames(i2v: MagicVideoI2V, reference: Reference, size: int) -> None:
    frames = animate(i2v, reference, num_frames=32, size=size, num_inference_steps=1, guidance_scale=1.0)
    assert frames.shape == (32, 3, size, size)
    assert bool(torch.isfinite(frames).all())
