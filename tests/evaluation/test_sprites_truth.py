import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.systems.sprites_truth import SpritesTruth, scene_of

PROMPT = "a large red star moving right on a black background"


def centre_of_light(frame: np.ndarray) -> tuple[float, float]:
    weight = frame.astype(float).sum(-1)
    weight -= weight.min()
    rows, columns = np.indices(weight.shape)
    return float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())


def test_clip_shows_what_the_prompt_says() -> None:
    clip = SpritesTruth(size=48, num_frames=7).generate(PROMPT, seed=3)
    assert clip.frames.shape == (7, 48, 48, 3)
    assert clip.frames.dtype == np.uint8
    before, after = centre_of_light(clip.frames[0]), centre_of_light(clip.frames[-1])
    assert after[0] - before[0] > 10
    assert abs(after[1] - before[1]) < 4
    brightest = clip.frames[3].reshape(-1, 3).astype(int)
    assert (brightest[:, 0] - brightest[:, 1:].max(1)).max() > 80


def test_two_objects_are_drawn_left_and_right_as_the_prompt_says() -> None:
    phrases = "a small green heart growing and a small red star moving up"
    scene = scene_of(f"{phrases} on an ocean background", 0)
    assert scene.caption == f"{phrases} on an ocean background"
    assert scene.objects[0].start[0] < 0.5 < scene.objects[1].start[0]


def test_seed_decides_what_the_prompt_leaves_open() -> None:
    system = SpritesTruth(size=32, num_frames=3)
    first, again, other = (system.generate(PROMPT, seed).frames for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_digest_follows_the_geometry() -> None:
    assert SpritesTruth(size=32).config_digest == SpritesTruth(size=32, name="other").config_digest
    assert SpritesTruth(size=32).config_digest != SpritesTruth(size=33).config_digest


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a cat",
        PROMPT.replace("red", "brown"),
        "a large red star spinning",
        f"{PROMPT}!",
        " and ".join([PROMPT] * 3),
    ],
)
def test_other_prompts_are_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(EvaluationError, match="in the form"):
        scene_of(prompt, 0)
