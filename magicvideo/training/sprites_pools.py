"""The sprites recipe's training data: rendered and encoded once, and how often each caption is seen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.nn.functional import avg_pool2d
from tqdm import tqdm
from transformers import CLIPTokenizer

from magicvideo.sprites import architecture
from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import sample_scene
from magicvideo.training.data import frame_pool
from magicvideo.training.diffusion import LatentPool, VideoPool, degrade, encode_frames, tokenize
from magicvideo.training.loop import save_tensors
from magicvideo.training.sprites_configs import HIGH, LOW

Pool = TypeVar("Pool", LatentPool, VideoPool)


def make_pools(vae: AutoencoderTiny, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Render and encode all training data into ``folder``, each pool once."""
    folder.mkdir(exist_ok=True)
    makers: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "frames_low": lambda: _frame_latents(vae, tokenizer, 30_000, LOW, 61),
        "frames_high": lambda: _frame_latents(vae, tokenizer, 12_000, HIGH, 62),
        "clips_low": lambda: _clip_latents(vae, tokenizer, 2000, LOW, 21, stride=1),
        "clips_high": lambda: _clip_latents(vae, tokenizer, 200, HIGH, 22, stride=2),
    }
    for name, make in makers.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_tensors(path, make())


def seen_often(pool: Pool, tokenizer: CLIPTokenizer, often: Mapping[str, int]) -> Pool:
    """Return a pool of which some captions are drawn more often.

    Args:
        pool: what to draw from.
        tokenizer: of its tokens.
        often: words, and how many times as often a caption that has all of them is drawn; the most of all that apply.
    """
    times = torch.ones(len(pool.tokens), dtype=torch.long)
    for words, count in often.items():
        ids = [tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in words.split()]
        has_all = torch.stack([(pool.tokens == token).any(1) for token in ids]).all(0)
        times = torch.where(has_all, times.clamp_min(count), times)
    return replace(pool, rows=torch.arange(len(times)).repeat_interleave(times))


def _frame_latents(
    vae: AutoencoderTiny, tokenizer: CLIPTokenizer, count: int, size: int, seed: int
) -> dict[str, torch.Tensor]:
    latents, captions, objects = [], [], []
    for start in tqdm(range(0, count, 1000), desc=f"encoding frames of {size} px"):
        pool = frame_pool(1000, size, seed * 1000 + start, progress=False)
        latents.append(encode_frames(vae, pool.frames))
        captions += pool.captions
        objects.append(avg_pool2d(pool.masks[:, None].float(), 8).half())
    return {
        "latents": torch.cat(latents),
        "tokens": tokenize(tokenizer, captions),
        "objects": torch.cat(objects),
    }


def _clip_latents(
    vae: AutoencoderTiny, tokenizer: CLIPTokenizer, count: int, size: int, seed: int, *, stride: int
) -> dict[str, torch.Tensor]:
    """Encode clips; at high resolution every second frame only, and what V2V starts from beside them."""
    names = ("latents", "references", "objects", "positions", "start")
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    captions = []
    for index in tqdm(range(count), desc=f"encoding clips of {size} px", mininterval=5):
        scene = sample_scene(np.random.default_rng([seed, index]))
        positions = torch.arange(index % stride, architecture.NUM_FRAMES, stride)
        times = frame_times(architecture.NUM_FRAMES)[positions.numpy()]
        captions.append(scene.caption)
        drawn = render(scene, times, size)
        rows["latents"].append(encode_frames(vae, _frames(drawn.video)))
        rows["objects"].append(_cover(drawn.mask))
        rows["references"].append(_frames(render(scene, np.zeros(1), size).video)[0])
        rows["positions"].append(positions)
        if size == HIGH:
            generator = torch.Generator().manual_seed(index)
            low = _frames(render(scene, times, LOW).video)
            rows["start"].append(encode_frames(vae, degrade(vae, low, size, generator)))
    stacked = {key: torch.stack(value) for key, value in rows.items() if value}
    return {**stacked, "tokens": tokenize(tokenizer, captions)}


def _cover(mask: np.ndarray) -> torch.Tensor:
    """Return the share of each latent pixel that objects cover: ``(T, S, S)`` to ``(T, 1, S / 8, S / 8)``."""
    return avg_pool2d(torch.from_numpy(mask > 0)[:, None].float(), 8).half()


def _frames(video: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(video).permute(0, 3, 1, 2).contiguous()
