"""The sprites domain: what the caption says is what the frames, the flow and the mask show."""

import numpy as np
import pytest

from magicvideo.sprites.render import PALETTE, frame_times, render
from magicvideo.sprites.scene import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    SIZES,
    is_held_out,
    sample_scene,
)


def scene_of(seed: int = 0, **attributes: object):  # type: ignore[no-untyped-def]
    return sample_scene(np.random.default_rng(seed), split="any", **({"num_objects": 1} | attributes))


def test_domain_is_as_large_as_promised() -> None:
    assert len(SHAPES) >= 8
    assert len(COLOURS) >= 8
    assert len(BACKGROUNDS) >= 6
    assert len(SIZES) == 2
    assert len(MOTIONS) >= 8


def test_caption_names_every_attribute() -> None:
    scene = scene_of(size="large", colour="red", shape="star", motion="spinning", background="ocean")
    assert scene.caption == "a large red star spinning on an ocean background"


def test_same_seed_draws_the_same_bytes() -> None:
    first, second = (render(scene_of(7), frame_times(4), 64).video for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, render(scene_of(8), frame_times(4), 64).video)


def test_a_tenth_of_the_combinations_is_held_out_and_never_drawn_for_training() -> None:
    combinations = [
        is_held_out(size, colour, shape, motion, background)
        for size in SIZES
        for colour in COLOURS
        for shape in SHAPES
        for motion in MOTIONS
        for background in BACKGROUNDS
    ]
    assert 0.07 < np.mean(combinations) < 0.13
    rng = np.random.default_rng(0)
    assert not any(sample_scene(rng, split="train").held_out for _ in range(200))
    assert all(sample_scene(rng, split="held_out").held_out for _ in range(20))


def test_held_out_combinations_do_not_change_between_versions() -> None:
    assert is_held_out("small", "red", "circle", "spinning", "black") is False
    assert is_held_out("large", "green", "star", "moving down", "sunset") is True


@pytest.mark.parametrize("motion", DIRECTIONS)
def test_objects_move_where_the_caption_says(motion: str) -> None:
    rendered = render(scene_of(3, motion=motion), frame_times(9), 64)
    rows, columns = np.indices((64, 64))
    centres = [
        (columns[mask > 0].mean(), rows[mask > 0].mean()) for mask in (rendered.mask[0], rendered.mask[-1])
    ]
    dx, dy = centres[1][0] - centres[0][0], centres[1][1] - centres[0][1]
    wanted = DIRECTIONS[motion]
    assert dx * wanted[0] + dy * wanted[1] > 10
    assert abs(dx * wanted[1]) + abs(dy * wanted[0]) < 3


def test_growing_grows_shrinking_shrinks_and_still_stays() -> None:
    areas = {}
    for motion in ("growing", "shrinking", "standing still"):
        mask = render(scene_of(5, motion=motion), frame_times(5), 64).mask
        areas[motion] = (mask > 0).sum((1, 2))
    assert areas["growing"][-1] > 2 * areas["growing"][0]
    assert areas["shrinking"][0] > 2 * areas["shrinking"][-1]
    assert len(set(areas["standing still"].tolist())) == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_object_has_the_named_colour(colour: str) -> None:
    rendered = render(scene_of(2, colour=colour, size="large", motion="standing still"), np.zeros(1), 96)
    seen = np.median(rendered.video[0][rendered.mask[0] == 1], axis=0)
    distances = {name: np.linalg.norm(seen - np.array(value)) for name, value in PALETTE.items()}
    assert min(distances, key=distances.__getitem__) == colour


@pytest.mark.parametrize("motion", MOTIONS)
def test_flow_moves_each_frame_onto_the_next(motion: str) -> None:
    rendered = render(scene_of(4, motion=motion, size="large"), frame_times(16), 96)
    rows, columns = np.indices((96, 96))
    frame, following, flow = rendered.video[7], rendered.video[8].astype(float), rendered.flow[7]
    inside = rendered.mask[7] == 1
    x = np.rint(columns + flow[..., 0]).astype(int)
    y = np.rint(rows + flow[..., 1]).astype(int)
    inside &= (x >= 0) & (x < 96) & (y >= 0) & (y < 96)
    error = np.abs(following[y[inside], x[inside]] - frame[inside])
    still = np.abs(following[inside] - frame[inside])
    assert np.median(error) < 6
    assert error.mean() <= still.mean() + 1


def test_true_frame_between_two_exists_at_any_time_and_size() -> None:
    scene = scene_of(6, motion="moving right")
    dense = render(scene, frame_times(31), 64).video
    between = render(scene, np.array([1 / 30, 2 / 30]), 64).video
    assert np.array_equal(dense[1:3], between)
    assert render(scene, np.zeros(1), 130).video.shape == (1, 130, 130, 3)


def test_edges_are_antialiased() -> None:
    frame = render(scene_of(1, background="black", colour="white"), np.zeros(1), 64).video[0]
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 100


def test_rounding_takes_corners_off_and_leaves_sides_where_they_are() -> None:
    scene = scene_of(shape="square", size="large", motion="standing still")
    x, y, radius, angle = scene.objects[0].start
    sharp, blunt = (render(scene, np.zeros(1), 200, rounding=share).mask[0] > 0 for share in (0.0, 0.15))

    def reach(mask: np.ndarray, direction: float) -> float:
        """Return how far the object reaches from its centre, in units of its radius."""
        steps = np.arange(0, 1.3, 0.005)
        columns = (200 * (x + radius * steps * np.cos(direction + angle))).astype(int)
        rows = (200 * (y + radius * steps * np.sin(direction + angle))).astype(int)
        return float(steps[mask[rows.clip(0, 199), columns.clip(0, 199)]].max())

    assert reach(blunt, 0.0) == pytest.approx(reach(sharp, 0.0), abs=0.03)
    assert reach(blunt, np.pi / 4) < reach(sharp, np.pi / 4) - 0.08


def test_unknown_attribute_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown shape 'blob'; known: circle"):
        scene_of(shape="blob")
