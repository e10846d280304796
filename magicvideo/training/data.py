"""Training data from the sprites domain, rendered into memory."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from magicvideo.sprites.render import render
from magicvideo.sprites.scene import Split, sample_scene


@dataclass(frozen=True)
class FramePool:
    """Single frames with captions: ``frames`` ``(N, 3, S, S)`` uint8, ``masks`` ``(N, S, S)`` bool of objects."""

    frames: torch.Tensor
    masks: torch.Tensor
    captions: list[str]


def frame_pool(
    count: int, size: int, seed: int, *, split: Split = "train", progress: bool = True
) -> FramePool:
    """Render ``count`` opening frames, each of its own scene: what a clip's reference image shows."""
    frames = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), bool)
    captions = []
    for index in tqdm(range(count), desc=f"frames {size} px", disable=not progress):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng, split=split)
        drawn = render(scene, np.zeros(1), size)
        frames[index], masks[index] = drawn.video[0], drawn.mask[0] > 0
        captions.append(scene.caption)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    return FramePool(pixels, torch.from_numpy(masks), captions)


def to_model(frames: torch.Tensor) -> torch.Tensor:
    """Map uint8 [0, 255] to float32 [-1, 1]."""
    return frames.float() / 127.5 - 1
