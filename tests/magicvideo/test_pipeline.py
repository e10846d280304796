"""The whole pipeline on random weights: geometry, seeds, arms, the stage cache, saving, and bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline
from safetensors.torch import load_file, save_file

from magicvideo.components import Components, load_components
from magicvideo.config import PipelineConfig, change
from magicvideo.errors import MagicVideoError
from magicvideo.pipeline import MagicVideoPipeline, stage_seed
from magicvideo.presets import ARMS

PROMPT = "a large red star spinning on a sunset background"


def test_every_arm_ends_at_the_same_size_length_and_rate(pipe: MagicVideoPipeline) -> None:
    results = {arm: pipe(PROMPT, arm=arm, progress=False) for arm in ARMS}
    assert {(result.frames.shape, result.fps) for result in results.values()} == {((7, 3, 48, 48), 30)}
    assert all(result.frames.dtype == torch.uint8 for result in results.values())
    assert len({result.records[-1].digest for result in results.values()}) == len(ARMS)
    # Two steps of random weights round the small change of the prior away; every other arm shows.
    full = results.pop("full").frames
    del results["-prior"]
    assert not any(torch.equal(result.frames, full) for result in results.values())


def test_same_seed_same_frames_other_seed_other_frames(pipe: MagicVideoPipeline) -> None:
    first = pipe(PROMPT, seed=3, progress=False).frames
    again = MagicVideoPipeline(pipe.components, pipe.config)(PROMPT, seed=3, progress=False).frames
    assert torch.equal(first, again)
    assert not torch.equal(first, pipe(PROMPT, seed=4, progress=False).frames)


def test_switching_off_a_stage_leaves_the_stages_before_it_unchanged(
    components: Components, small_config: PipelineConfig
) -> None:
    full = MagicVideoPipeline(components, small_config)(PROMPT, progress=False)
    for arm, unchanged in (("-vfi", ("t2i", "i2v", "v2v")), ("-v2v", ("t2i", "i2v"))):
        ablated = MagicVideoPipeline(components, small_config)(PROMPT, arm=arm, progress=False)
        assert all(torch.equal(full.stages[stage], ablated.stages[stage]) for stage in unchanged)


def test_arms_reuse_upstream_stages(pipe: MagicVideoPipeline) -> None:
    pipe(PROMPT, progress=False)
    records = pipe(PROMPT, arm="-v2v", progress=False).records
    assert [record.reused for record in records] == [True, True, False, False]
    assert [record.seed for record in records] == [stage_seed(0, record.stage) for record in records]


def test_repeat_arm_holds_keyframes_and_full_arm_keeps_them(pipe: MagicVideoPipeline) -> None:
    held = pipe(PROMPT, arm="-vfi", progress=False)
    assert torch.equal(held.frames[0], held.frames[2])
    full = pipe(PROMPT, progress=False)
    assert torch.equal(full.frames[::3], full.stages["v2v"])


def test_i2v_equals_the_stock_pipeline_bit_for_bit(pipe: MagicVideoPipeline) -> None:
    result = pipe(PROMPT, progress=False)
    settings, parts = pipe.config.i2v, pipe.components
    run = pipe.i2v
    stock = AnimateDiffControlNetPipeline(**run.components)
    stock.set_progress_bar_config(disable=True)
    from PIL import Image

    from magicvideo.noise_prior import noise_prior
    from magicvideo.reference import Reference

    reference = Reference(
        Image.fromarray(result.stages["t2i"][0].permute(1, 2, 0).numpy()), parts.feature_extractor
    )
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(stage_seed(0, "i2v")))
    alpha = parts.scheduler.alphas_cumprod[999]
    with torch.inference_mode():
        latents = noise_prior(reference.latents(parts.vae, 32), noise, "mixed", strength=float(alpha.sqrt()))
        frames = stock(
            PROMPT,
            negative_prompt="",
            num_frames=3,
            height=32,
            width=32,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            latents=latents,
            ip_adapter_image_embeds=reference.embeds(parts.image_encoder, True),
            conditioning_frames=[reference.image] * 3,
            decode_chunk_size=8,
            output_type="pt",
        ).frames[0]
    assert torch.equal((frames.clamp(0, 1) * 255).round().to(torch.uint8), result.stages["i2v"])


def test_saved_and_loaded_pipeline_gives_the_same_frames(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    expected = pipe(PROMPT, progress=False).frames
    pipe.save_pretrained(tmp_path / "checkpoint")
    loaded = MagicVideoPipeline.from_pretrained(str(tmp_path / "checkpoint"))
    assert torch.equal(loaded(PROMPT, progress=False).frames, expected)


def test_checkpoint_with_a_missing_weight_lists_it(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "i2v_motion" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    gone = next(iter(state))
    del state[gone]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(MagicVideoError, match=gone.replace(".", r"\.")):
        load_components(tmp_path / "checkpoint")


def test_checkpoint_with_weights_that_are_not_numbers_is_refused(
    pipe: MagicVideoPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    first = next(iter(state))
    state[first] = torch.full_like(state[first], float("nan"))
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(MagicVideoError, match="not finite"):
        load_components(tmp_path / "checkpoint")


def test_incomplete_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match=r"it has no magicvideo\.json"):
        MagicVideoPipeline.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("prompt", ["", "   "])
def test_empty_prompt_is_refused(pipe: MagicVideoPipeline, prompt: str) -> None:
    with pytest.raises(MagicVideoError, match="the prompt is empty"):
        pipe(prompt, progress=False)


def test_unknown_names_list_the_known_ones(pipe: MagicVideoPipeline) -> None:
    with pytest.raises(MagicVideoError, match="unknown preset 'papr'; known: sprites"):
        MagicVideoPipeline.from_pretrained("papr")
    with pytest.raises(MagicVideoError, match="unknown arm 'no-v2v'; known: full"):
        pipe(PROMPT, arm="no-v2v", progress=False)
    with pytest.raises(MagicVideoError, match="unknown dtype 'fp8'; known: float32"):
        pipe.to("cpu", "fp8")
    with pytest.raises(MagicVideoError, match="device 'tpu9' cannot be used"):
        pipe.to("tpu9")


def test_strength_without_a_step_is_refused(components: Components, small_config: PipelineConfig) -> None:
    pipe = MagicVideoPipeline(components, change(small_config, "v2v", strength=0.2))
    with pytest.raises(MagicVideoError, match=r"strength 0\.2 of 2 steps leaves no denoising step"):
        pipe(PROMPT, progress=False)


def test_too_many_frames_are_refused_on_construction(
    components: Components, small_config: PipelineConfig
) -> None:
    with pytest.raises(MagicVideoError, match="33 frames"):
        MagicVideoPipeline(components, change(small_config, "i2v", num_frames=33))


def test_config_round_trip_keeps_the_digest_and_refuses_unknown_keys(small_config: PipelineConfig) -> None:
    values = small_config.to_dict()
    assert PipelineConfig.from_dict(values) == small_config
    assert PipelineConfig.from_dict(values).digest() == small_config.digest()
    assert replace(small_config, keyframe_fps=8).digest() != small_config.digest()
    with pytest.raises(MagicVideoError, match=r"unknown key 'steps' in config\.i2v; known: size"):
        PipelineConfig.from_dict({**values, "i2v": {"steps": 3}})
    with pytest.raises(MagicVideoError, match=r"t2i\.size must be a multiple of 8"):
        change(small_config, "t2i", size=50)
