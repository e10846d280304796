"""Training data from the sprites domain, rendered into memory."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import Split, sample_scene


@dataclass(frozen=True)
class FramePool:
    """Single frames with captions: ``frames`` ``(N, 3, S, S)`` uint8."""

    frames: torch.Tensor
    captions: list[str]


@dataclass(frozen=True)
class ClipPool:
    """Clips with captions: ``clips`` ``(N, T, 3, S, S)`` uint8, frames at ``k / (T - 1)``."""

    clips: torch.Tensor
    captions: list[str]


def frame_pool(
    count: int, size: int, seed: int, *, split: Split = "train", progress: bool = True
) -> FramePool:
    """Render ``count`` opening frames, each of its own scene: what a clip's reference image shows."""
    frames = np.empty((count, size, size, 3), np.uint8)
    captions = []
    for index in tqdm(range(count), desc=f"frames {size} px", disable=not progress):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng, split=split)
        frames[index] = render(scene, np.zeros(1), size).video[0]
        captions.append(scene.caption)
    return FramePool(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), captions)


def clip_pool(
    count: int, num_frames: int, size: int, seed: int, *, split: Split = "train", progress: bool = True
) -> ClipPool:
    """Render ``count`` whole clips of ``num_frames`` frames."""
    clips = np.empty((count, num_frames, size, size, 3), np.uint8)
    captions = []
    for index in tqdm(range(count), desc=f"clips {size} px", disable=not progress):
        scene = sample_scene(np.random.default_rng([seed, index]), split=split)
        clips[index] = render(scene, frame_times(num_frames), size).video
        captions.append(scene.caption)
    return ClipPool(torch.from_numpy(clips).permute(0, 1, 4, 2, 3).contiguous(), captions)


def to_model(frames: torch.Tensor) -> torch.Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]."""
    return frames.float() / 127.5 - 1
