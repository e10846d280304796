"""Reference videos of the sprites domain: true clips of held-out scenes, for metrics that compare sets."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.clips import sweep, write_clip


def sprites_reference(
    folder: Path,
    count: int,
    *,
    size: int = 264,
    num_frames: int = 94,
    fps: Fraction = Fraction(30),
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Render ``count`` held-out clips into ``folder`` as mp4 files; those already there are kept.

    Clip ``i`` depends on ``seed`` and ``i`` alone, and the folder's name carries everything else.
    """
    from magicvideo.sprites.render import frame_times, render
    from magicvideo.sprites.scene import sample_scene

    home = folder / f"sprites-{size}px-{num_frames}f-seed{seed}"
    paths = [home / f"{index:04d}.mp4" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    for index in tqdm(missing, desc="reference clips", unit="clip", disable=not progress or not missing):
        scene = sample_scene(np.random.default_rng([seed, index]), split="held_out", num_objects=1)
        write_clip(paths[index], render(scene, frame_times(num_frames), size).video, fps)
    sweep(home)
    return paths
