"""The embedded models: what the committed weights tell apart, and that their training program runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from evaluation.cli.train_metrics import train_metrics
from evaluation.embedded_metrics import (
    DISTORTIONS,
    attributes_of,
    caption_of,
    caption_words,
    render_pool,
    validate_clip,
    validate_video,
)
from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import Scene, sample_scene
from metrics.embedded import CLIP_WEIGHTS, VIDEO_WEIGHTS, load_tokenizer, sha256_of
from metrics.features import load_extractor
from metrics.functional import frechet_distance
from metrics.text_video import CLIPScore, VideoTextScore

VIDEO_LEAST = {"size": 0.99, "colour": 0.99, "shape": 0.95, "motion": 0.98, "background": 0.98}


def test_weights_are_small_and_are_those_of_the_recipe() -> None:
    total = 0
    for folder in (CLIP_WEIGHTS, VIDEO_WEIGHTS):
        recipe = json.loads((folder / "recipe.json").read_text())
        weights = folder / recipe["file"]
        assert sha256_of(weights) == recipe["sha256"]
        assert recipe["curve"][-1][1] < recipe["curve"][0][1] / 2
        total += weights.stat().st_size
    assert total <= 2.5e6


def test_clip_score_tells_colour_shape_and_background_but_not_motion() -> None:
    rates = validate_clip(CLIP_WEIGHTS, clips=64, seed=1, progress=False)
    assert rates["right_over_wrong_colour"] >= 0.95
    assert rates["right_over_wrong_shape"] >= 0.95
    assert rates["right_over_wrong_background"] >= 0.97
    assert 0.35 < rates["right_over_wrong_motion"] < 0.75


def test_clip_score_cannot_see_the_order_of_frames_and_the_video_text_score_can() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, motion="moving left", num_objects=1) for _ in range(24)]
    videos = torch.stack([_rendered(scene) for scene in scenes])
    prompts = [scene.caption for scene in scenes]
    for metric, sees in ((CLIPScore(), False), (VideoTextScore(), True)):
        metric.update(videos, prompts)
        metric.update(videos.flip(1), prompts)
        forward, backward = metric.values().split(24)
        assert torch.allclose(forward, backward, atol=1e-3) is not sees


def test_video_text_score_tells_every_attribute() -> None:
    rates = validate_video(VIDEO_WEIGHTS, clips=128, seed=1, progress=False)
    for name, least in VIDEO_LEAST.items():
        assert rates[f"right_over_wrong_{name}"] >= least, name


def test_video_text_score_prefers_motion_to_frozen_shuffled_and_reversed_clips() -> None:
    metric, pool = VideoTextScore(), render_pool(128, 8, 64, seed=11, split="held_out", progress=False)
    moving = [i for i, caption in enumerate(pool.captions) if "still" not in caption]
    directed = torch.tensor(["spinning" not in pool.captions[i] for i in moving])
    videos, prompts = pool.videos[moving], [pool.captions[i] for i in moving]
    for distort in (lambda x: x, *(DISTORTIONS[name] for name in ("freeze", "shuffle", "reverse"))):
        metric.update(distort(videos), prompts)
    right, frozen, shuffled, backwards = metric.values().split(len(moving))
    assert (right > frozen).float().mean() >= 0.99
    assert (right > shuffled).float().mean() >= 0.95
    assert (right > backwards)[directed].float().mean() >= 0.97


def _rendered(scene: Scene) -> Tensor:
    return torch.from_numpy(render(scene, frame_times(8), 64).video).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("defect", "factor"),
    [("freeze", 3), ("shuffle", 1.6), ("blur_32", 1.3), ("blur_16", 2), ("noise_40", 5), ("collapse", 5)],
)
def test_frechet_distance_reacts_to_defects(defect: str, factor: float) -> None:
    extractor = load_extractor("embedded")
    pool = render_pool(240, 8, 64, seed=5, split="any", progress=False).videos
    real, fake = extractor(pool[:160]), pool[160:]
    clean = frechet_distance(extractor(fake), real)
    assert frechet_distance(extractor(DISTORTIONS[defect](fake)), real) > factor * clean


def test_every_word_of_a_caption_is_one_token_and_the_longest_caption_is_not_cut() -> None:
    longest = "a small purple triangle standing still and a small yellow hexagon standing still on a black background"
    for folder in (CLIP_WEIGHTS, VIDEO_WEIGHTS):
        tokenizer = load_tokenizer(folder, 24)
        lengths = {word: len(tokenizer.encode(word)) for word in caption_words()}
        assert lengths == dict.fromkeys(lengths, 1)
        assert len(tokenizer.encode(longest)) + 2 <= 24


def test_captions_are_those_of_the_domain() -> None:
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(100)]
    assert [caption_of(attributes_of(scene)) for scene in scenes] == [scene.caption for scene in scenes]


def test_the_training_program_writes_loadable_models(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train_metrics)
    few = ["--clips", "12", "--steps", "1", "--validation-clips", "8"]
    done = CliRunner().invoke(app, [str(tmp_path), *few])
    assert done.exit_code == 0, done.output
    assert "model.safetensors after 1 steps; right_over_wrong_size" in done.stdout
    assert CliRunner().invoke(app, [str(tmp_path), "--model", "audio"]).exit_code == 2
    for name in ("clip", "video"):
        recipe = json.loads((tmp_path / name / "recipe.json").read_text())
        assert recipe["sha256"] == sha256_of(tmp_path / name / recipe["file"])
        assert not list((tmp_path / name).glob(".*"))
