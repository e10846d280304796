"""No value prefers a frozen video to the moving one where the prompt asks for motion."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import MOTIONS, sample_scene
from metrics.registry import METRICS
from metrics.scorer import ScoreTable, score_videos

COUNT, FRAMES, SIZE = 4, 10, 176
JUDGING = [
    info.name
    for info in METRICS.values()
    if info.direction != "neutral" and not {"weights", "ffmpeg"} & set(info.needs)
]


@pytest.fixture(scope="module")
def tables(
    tmp_path_factory: pytest.TempPathFactory, encode: Callable[..., Path]
) -> tuple[ScoreTable, ScoreTable]:
    """The tables of moving clips and of the same clips held on their first frame."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(3)
    moving = [motion for motion in MOTIONS if "still" not in motion]
    scenes = [
        sample_scene(rng, motion=moving[i % len(moving)], num_objects=1, split="held_out")
        for i in range(COUNT)
    ]
    paths: dict[str, list[Path]] = {name: [] for name in ("true", "clean", "frozen", "images")}
    for index, scene in enumerate(scenes):
        clip = torch.from_numpy(render(scene, frame_times(FRAMES), SIZE).video).permute(0, 3, 1, 2)
        found: dict[str, Tensor] = {"true": clip, "clean": clip, "frozen": clip[:1].expand_as(clip)}
        for name, frames in found.items():
            (folder / name).mkdir(exist_ok=True)
            crf = 0 if name == "true" else 23
            paths[name].append(encode(folder / name / f"{index}.mp4", frames, fps=8, crf=crf))
        image = folder / f"{index}.png"
        Image.fromarray(clip[0].permute(1, 2, 0).numpy()).save(image)
        paths["images"].append(image)
    clean, frozen = (
        score_videos(
            paths[name],
            [scene.caption for scene in scenes],
            JUDGING,
            reference_paths=paths["true"],
            reference_images=paths["images"],
            progress=False,
        )
        for name in ("clean", "frozen")
    )
    return clean, frozen


def better(name: str, clean: float, frozen: float | None) -> bool:
    """Tell whether the frozen value is the better one; no value is no preference."""
    sign = 1 if METRICS[name].direction == "higher" else -1
    return frozen is not None and sign * frozen > sign * clean


def test_no_value_of_a_video_is_better_when_it_is_frozen(tables: tuple[ScoreTable, ScoreTable]) -> None:
    clean, frozen = tables
    compared = set()
    for ours, theirs in zip(clean.rows, frozen.rows, strict=True):
        assert (ours.path.name, ours.metric) == (theirs.path.name, theirs.metric)
        if ours.metric not in JUDGING:  # what describes comes with its family
            continue
        assert ours.value is not None, (ours.metric, ours.reason)
        assert not better(ours.metric, ours.value, theirs.value), (ours.metric, ours.prompt)
        compared.add(ours.metric)
    assert compared == {name for name in JUDGING if METRICS[name].per == "video"}


def test_no_value_of_the_set_is_better_when_it_is_frozen(tables: tuple[ScoreTable, ScoreTable]) -> None:
    compared = 0
    for ours, theirs in zip(*(table.set_values for table in tables), strict=True):
        if ours.metric in JUDGING and ours.value is not None:
            assert not better(ours.metric, ours.value, theirs.value), ours.metric
            compared += 1
    assert compared >= len(JUDGING) - 1  # fvd_infinity needs more videos
