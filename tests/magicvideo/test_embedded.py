"""The checkpoint in the package: its files, and what a person would see in what it makes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.prompts import demo_prompts
from evaluation.systems.sprites_truth import scene_of
from magicvideo.components import locate
from magicvideo.noise_prior import noise_lean
from magicvideo.pipeline import MagicVideoPipeline, VideoResult
from magicvideo.presets import SPRITES
from magicvideo.reference import Reference
from magicvideo.sprites.architecture import build_scheduler
from magicvideo.sprites.judge import agreement, load_judge
from magicvideo.sprites.render import GRADIENTS, PALETTE
from magicvideo.t2i import make_image
from magicvideo.training.loop import sha256_of
from magicvideo.training.sprites import RECIPES
from magicvideo.training.sprites_configs import LEANT_ON

FOLDER = locate("embedded:sprites")
STAR = "a large red star spinning on a sunset background"


@pytest.fixture(scope="module")
def pipe() -> MagicVideoPipeline:
    return MagicVideoPipeline.from_pretrained("sprites")


@pytest.fixture(scope="module")
def star(pipe: MagicVideoPipeline) -> VideoResult:
    return pipe(STAR, progress=False)


def test_no_configuration_tells_where_its_part_was_made() -> None:
    configs = list(FOLDER.glob("*/config.json"))
    assert configs
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


@pytest.fixture(scope="module")
def demo_images(pipe: MagicVideoPipeline) -> torch.Tensor:
    return torch.stack([pipe.reference_image(prompt) for prompt in demo_prompts()])


def test_weights_are_safetensors_of_25_megabytes_at_most_with_their_digests() -> None:
    weights = [
        path
        for folder in ("magicvideo", "metrics")
        for path in (FOLDER.parents[2] / folder).rglob("*.safetensors")
    ]
    assert sum(path.stat().st_size for path in weights) <= 25e6
    assert not list(FOLDER.rglob("*.bin")) + list(FOLDER.rglob("*.pt"))
    recorded = json.loads((FOLDER / "sha256.json").read_text())
    assert recorded == {
        str(path.relative_to(FOLDER)): sha256_of(path) for path in sorted(FOLDER.rglob("*.safetensors"))
    }


def test_every_part_has_its_recipe() -> None:
    for stage in RECIPES:
        recipe = json.loads((FOLDER / f"recipe-{stage}.json").read_text())
        assert recipe["config"]["steps"] == recipe["curve"][-1][0]
        assert recipe["curve"][-1][1] < recipe["curve"][0][1]


def test_noise_leans_as_it_did_in_training() -> None:
    lean = noise_lean(SPRITES.i2v.prior_strength, build_scheduler().alphas_cumprod)
    assert lean == pytest.approx(LEANT_ON.noise_lean, abs=0.005)


def test_a_prompt_becomes_94_frames_of_264_pixels(star: VideoResult) -> None:
    assert star.frames.shape == (94, 3, 264, 264)
    assert star.fps == 30
    assert star.stages["i2v"].shape == (32, 3, 152, 152)
    assert torch.equal(star.frames[::3], star.stages["v2v"])


def test_something_moves_and_v2v_changes_the_picture(star: VideoResult, pipe: MagicVideoPipeline) -> None:
    keyframes = star.stages["v2v"].float()
    assert (keyframes[0] - keyframes[-1]).abs().mean() > 1
    resized = pipe(STAR, arm="-v2v", progress=False).stages["v2v"].float()
    assert (keyframes - resized).abs().mean() > 0.5


def object_and_ground(image: np.ndarray) -> tuple[str, str]:
    """Name the background (nearest gradient at the borders) and the colour (median of what stands out from it)."""
    size = len(image)
    blend = ((np.arange(size) + 0.5) / size)[:, None, None]
    grounds = {
        name: (1 - blend) * np.array(top) + blend * np.array(end) for name, (top, end) in GRADIENTS.items()
    }
    border = np.zeros((size, size), bool)
    border[:, : size // 10] = border[:, -size // 10 :] = True
    error = {name: np.abs(image - value)[border].mean() for name, value in grounds.items()}
    ground = min(error, key=error.__getitem__)
    distance = np.linalg.norm(image - grounds[ground], axis=-1)
    inside = distance * ~border
    seen = image[inside >= np.quantile(inside, 0.97)]
    colours = {name: np.linalg.norm(np.median(seen, 0) - np.array(value)) for name, value in PALETTE.items()}
    return min(colours, key=colours.__getitem__), ground


def test_a_person_could_name_colour_and_background_of_most_demo_images(demo_images: torch.Tensor) -> None:
    named = [object_and_ground(image.permute(1, 2, 0).numpy().astype(float)) for image in demo_images]
    colours, grounds = zip(*named, strict=True)
    for names in (colours, grounds):
        assert sum(f" {name} " in prompt for name, prompt in zip(names, demo_prompts(), strict=True)) >= 6


def test_the_judge_reads_what_was_asked_in_demo_images_and_in_a_video(
    demo_images: torch.Tensor, star: VideoResult
) -> None:
    judge = load_judge()
    read = agreement(judge.judge(demo_images[:, None]), [scene_of(prompt, 0) for prompt in demo_prompts()])
    assert read["object"].sum() >= 6
    assert read["background"].sum() >= 7
    assert agreement(judge.judge(star.frames[None]), [scene_of(STAR, 0)])["object"].item()


@pytest.mark.parametrize("stage", ["t2i", "i2v", "v2v"])
def test_one_thread_and_two_make_the_same_frames(
    stage: str, star: VideoResult, pipe: MagicVideoPipeline
) -> None:
    settings = replace(getattr(pipe.config, stage), num_inference_steps=4)

    def frames() -> torch.Tensor:
        options = {"generator": torch.Generator().manual_seed(0), "guidance_scale": settings.guidance_scale}
        if stage == "t2i":
            return make_image(pipe.t2i, STAR, settings, options["generator"])
        pixels = Image.fromarray(star.stages["t2i"][0].permute(1, 2, 0).numpy())
        reference = Reference(pixels, pipe.components.feature_extractor)
        options |= {"size": settings.size, "num_inference_steps": settings.num_inference_steps}
        if stage == "i2v":
            return pipe.i2v.animate(STAR, reference, num_frames=32, prior=settings.prior, **options)
        keyframes = star.stages["i2v"].float() / 255
        return pipe.v2v.refine(STAR, keyframes, reference, strength=settings.strength, **options)

    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            made.append(frames())
        finally:
            torch.set_num_threads(1)
    assert (made[0] - made[1]).abs().max() <= 1e-4


def test_words_that_it_was_never_taught_are_named(pipe: MagicVideoPipeline) -> None:
    assert pipe.unknown_words("A girl, playing piano: 3 stars!") == ["girl", "playing", "piano", "stars"]
    assert pipe.unknown_words("x blue circle") == ["x"]
    assert not [word for prompt in demo_prompts() for word in pipe.unknown_words(prompt)]


def test_saved_elsewhere_and_loaded_it_is_the_same(
    star: VideoResult, pipe: MagicVideoPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "copy")
    copy = MagicVideoPipeline.from_pretrained(str(tmp_path / "copy"))
    state, copied = pipe.components.i2v_unet.state_dict(), copy.components.i2v_unet.state_dict()
    assert state.keys() == copied.keys()
    assert all(torch.equal(value, copied[key]) for key, value in state.items())
