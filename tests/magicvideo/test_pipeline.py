"""The whole pipeline on random weights: geometry, seeds, arms, the stage cache, saving, and bad input."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline
from PIL import Image

from magicvideo.components import Components
from magicvideo.config import PipelineConfig, change
from magicvideo.errors import MagicVideoError
from magicvideo.pipeline import MagicVideoPipeline, stage_seed
from magicvideo.presets import ARMS
from magicvideo.stages import STAGES

PROMPT = "a large red star spinning on a sunset background"


def test_every_arm_ends_at_the_same_size_length_and_rate(pipe: MagicVideoPipeline) -> None:
    results = {arm: pipe(PROMPT, arm=arm, progress=False) for arm in ARMS}
    assert {(result.frames.shape, result.fps) for result in results.values()} == {((7, 3, 48, 48), 30)}
    assert all(result.frames.dtype == torch.uint8 for result in results.values())
    joint = results.pop("group-norm-joint")  # what this configuration has already
    assert joint.records[-1].digest == results["full"].records[-1].digest
    assert len({result.records[-1].digest for result in results.values()}) == len(ARMS) - 1
    assert all(
        [record.seed for record in result.records] == [stage_seed(0, stage) for stage in STAGES]
        for result in results.values()
    )
    # Two steps of random weights round small changes away, and untrained heads add nothing; these always show.
    full = results["full"].frames
    for arm in ("-controlnet", "-appearance", "-v2v", "-vfi", "group-norm-per-frame"):
        assert not torch.equal(results[arm].frames, full), arm
    assert not torch.equal(results["-i2v"].stages["i2v"], results["full"].stages["i2v"])


def test_same_seed_same_frames_other_seed_other_frames(pipe: MagicVideoPipeline) -> None:
    first = pipe(PROMPT, seed=3, progress=False).frames
    again = MagicVideoPipeline(pipe.components, pipe.config)(PROMPT, seed=3, progress=False).frames
    assert torch.equal(first, again)
    assert not torch.equal(first, pipe(PROMPT, seed=4, progress=False).frames)


UPSTREAM = {"-vfi": ("t2i", "i2v", "v2v"), "-v2v": ("t2i", "i2v"), "-i2v": ("t2i",), "-prior": ("t2i",)}


def test_switching_off_a_stage_leaves_the_stages_before_it_unchanged(
    components: Components, small_config: PipelineConfig
) -> None:
    full = MagicVideoPipeline(components, small_config)(PROMPT, progress=False)
    for arm, unchanged in UPSTREAM.items():
        ablated = MagicVideoPipeline(components, small_config)(PROMPT, arm=arm, progress=False)
        assert all(torch.equal(full.stages[stage], ablated.stages[stage]) for stage in unchanged)
        assert [record.seed for record in ablated.records] == [record.seed for record in full.records]


def test_a_stage_draws_the_same_noise_whatever_came_before(pipe: MagicVideoPipeline) -> None:
    # A picture in place of text-to-image's, equal to it: all that follows is equal, so no stage drew from another's.
    made = pipe(PROMPT, progress=False)
    picture = Image.fromarray(made.stages["t2i"][0].permute(1, 2, 0).numpy())
    given = pipe(PROMPT, image=picture, progress=False)
    assert all(torch.equal(made.stages[stage], given.stages[stage]) for stage in STAGES)
    assert not any(record.reused for record in given.records[1:])


def test_without_i2v_the_reference_stands_still(pipe: MagicVideoPipeline) -> None:
    frames = pipe(PROMPT, arm="-i2v", progress=False).stages["i2v"]
    assert frames.shape == (3, 3, 32, 32)
    assert all(torch.equal(frame, frames[0]) for frame in frames)


def test_a_cache_on_disk_serves_another_pipeline_of_equal_parts(
    components: Components, small_config: PipelineConfig, tmp_path: Path
) -> None:
    first = MagicVideoPipeline(components, small_config, cache_dir=tmp_path)(PROMPT, progress=False)
    again = MagicVideoPipeline(components, small_config, cache_dir=tmp_path)(PROMPT, progress=False)
    assert [record.reused for record in first.records] == [False] * 4
    assert [record.reused for record in again.records] == [True] * 4
    assert all(torch.equal(first.stages[stage], again.stages[stage]) for stage in STAGES)
    assert all(record.peak_memory is not None and record.peak_memory > 2**20 for record in first.records)
    assert all(record.peak_memory is None for record in again.records)


def test_other_weights_are_other_keys_from_their_stage_on(
    components: Components, small_config: PipelineConfig
) -> None:
    before = MagicVideoPipeline(components, small_config)(PROMPT, progress=False)
    own = next(p for name, p in components.v2v_unet.named_parameters() if "motion_modules" in name)
    kept = own.clone()
    with torch.no_grad():
        own.add_(1.0)
    after = MagicVideoPipeline(components, small_config)(PROMPT, progress=False)
    with torch.no_grad():
        own.copy_(kept)
    same = [one.digest == two.digest for one, two in zip(before.records, after.records, strict=True)]
    assert same == [True, True, False, False]


def test_running_out_of_memory_is_one_sentence(components: Components, small_config: PipelineConfig) -> None:
    pipe = MagicVideoPipeline(components, change(small_config, "t2i", size=8_000_000))
    with pytest.raises(MagicVideoError, match="text-to-image ran out of memory; use guidance='sequential'"):
        pipe(PROMPT, progress=False)


def test_a_kind_of_interpolation_that_is_not_loaded_is_refused_before_anything_runs(
    components: Components, small_config: PipelineConfig
) -> None:
    bare = copy.copy(components)
    bare.interpolator = None
    pipe = MagicVideoPipeline(bare, small_config)
    with pytest.raises(MagicVideoError, match=r"vfi\.kind 'combined' needs the part interpolator"):
        pipe(PROMPT, progress=False)
    assert pipe(PROMPT, arm="-vfi", progress=False).frames.shape == (7, 3, 48, 48)


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
            ip_adapter_image_embeds=reference.embeds(parts.image_encoder, "text and image"),
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


def test_incomplete_folder_says_what_is_missing(small_config: PipelineConfig, tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match=r"it has no magicvideo\.json"):
        MagicVideoPipeline.from_pretrained(str(tmp_path))
    (tmp_path / "magicvideo.json").write_text("{")
    with pytest.raises(MagicVideoError, match=r"magicvideo\.json cannot be read as JSON"):
        MagicVideoPipeline.from_pretrained(str(tmp_path))
    (tmp_path / "magicvideo.json").write_text(json.dumps(small_config.to_dict()))
    with pytest.raises(MagicVideoError, match="no complete checkpoint: vae, tokenizer, text_encoder, unet"):
        MagicVideoPipeline.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("prompt", ["", "   "])
def test_empty_prompt_is_refused(pipe: MagicVideoPipeline, prompt: str) -> None:
    with pytest.raises(MagicVideoError, match="the prompt is empty"):
        pipe(prompt, progress=False)


def test_unknown_names_list_the_known_ones(pipe: MagicVideoPipeline) -> None:
    with pytest.raises(MagicVideoError, match="unknown preset 'papr'; known: sprites, paper"):
        MagicVideoPipeline.from_pretrained("papr")
    with pytest.raises(MagicVideoError, match="unknown arm 'no-v2v'; known: full"):
        pipe(PROMPT, arm="no-v2v", progress=False)
    with pytest.raises(MagicVideoError, match="unknown dtype 'fp8'; known: float32"):
        pipe.to("cpu", "fp8")
    with pytest.raises(MagicVideoError, match="device 'tpu9' cannot be used"):
        pipe.to("tpu9")


def test_too_many_frames_are_refused_on_construction(
    components: Components, small_config: PipelineConfig
) -> None:
    with pytest.raises(MagicVideoError, match="33 frames"):
        MagicVideoPipeline(components, change(small_config, "i2v", num_frames=33))
