"""Train and check the two embedded metric models on the sprites domain.

They are an open_clip model (image and text) and a video-text model. The metrics package knows no sprites and
the sprites know no metrics, so the program that joins them lives here.
"""

import gzip
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Scene, Split, sample_scene
from metrics.clip_model import ClipModel
from metrics.embedded import VIDEO_CONFIG, VideoTextModel, load_tokenizer, load_video_text_model, sha256_of
from metrics.functional.frechet import frechet_distance

log = logging.getLogger(__name__)

OBJECT = (SIZES, COLOURS, SHAPES, MOTIONS)
NAMES: tuple[tuple[str, ...], ...] = (*OBJECT, *OBJECT, BACKGROUNDS)
MOTION_COLUMNS = (3, 7)  # of the attribute table: size colour shape motion, twice, then the background
ABSENT, ANY = -1, -2  # no second object; left out of the caption
DISORDERED = len(MOTIONS)  # the motion of a clip whose frames are out of order: no caption tells it
REVERSED = {"moving left": "moving right", "moving up": "moving down", "growing": "shrinking"}
REVERSED |= {after: before for before, after in REVERSED.items()}
BACKWARDS = np.array([MOTIONS.index(REVERSED.get(name, name)) for name in MOTIONS])
EMBED_DIM: int = VIDEO_CONFIG["embed_dim"]
CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 11, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 48, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
}
STEPS = {"clip": 1500, "video": 1700}
ATTRIBUTE_WEIGHT = {"clip": 2.0, "video": 4.0}  # of the attribute reading beside the contrastive loss
CLIPS_PER_BATCH = 64  # of the video-text model, and half as many twins that differ in their motion only


@dataclass(frozen=True)
class _Run:
    steps: int
    attribute_weight: float
    rng: np.random.Generator
    device: str
    progress: bool


@dataclass(frozen=True)
class _Task:
    """Columns of the attribute table: ``compared`` decide whether a caption is true, ``read`` are read off.

    Each group of ``changed`` gives every clip one hard negative: its caption with one of them changed.
    """

    compared: Sequence[int]
    read: Sequence[int]
    changed: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Pool:
    """Rendered clips: ``videos`` (N, T, 3, S, S) uint8 and ``attributes`` (N, 9), indices into ``NAMES``."""

    videos: Tensor
    attributes: np.ndarray
    captions: list[str]


def train_embedded_metrics(
    out_dir: Path,
    *,
    models: Sequence[str] = ("clip", "video"),
    clips: int = 12_000,
    steps: int | None = None,
    validation_clips: int = 512,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Train the embedded models, check them on clips they never saw, and write them under ``out_dir``.

    Args:
        out_dir: receives ``clip/`` (an open_clip local-dir) and ``video/``, each with ``recipe.json``.
        models: which of the two to train.
        clips: rendered training clips of 8 frames of 64 x 64.
        steps: optimiser steps of each model, of 192 frames, or of 64 clips and 32 twins; by default ``STEPS``.
        validation_clips: clips of the checks; twice as many are the reference of the Fréchet distances.
        seed: of scenes, weights and batches.
        device: torch device.
        progress: show progress bars on stderr.

    Returns:
        The recipes with sha256, curve and validation, keyed ``clip`` and ``video``.

    Raises:
        ValueError: an unknown model.
    """
    if not set(models) <= {"clip", "video"}:
        raise ValueError(f"unknown models {sorted(set(models) - {'clip', 'video'})}; known: clip, video")
    pool = render_pool(clips, VIDEO_CONFIG["frames"], VIDEO_CONFIG["size"], seed, progress=progress)
    results: dict[str, Any] = {}
    for name in models:
        run_steps, attribute_weight, folder = steps or STEPS[name], ATTRIBUTE_WEIGHT[name], out_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        write_bpe(folder / "bpe.txt.gz", caption_words())
        torch.manual_seed(seed)
        started = time.monotonic()
        rng = np.random.default_rng([seed, run_steps])
        run = _Run(run_steps, attribute_weight, rng, device, progress)
        curve = (_train_clip if name == "clip" else _train_video)(folder, pool, run)
        results[name] = {"domain": "sprites", "clips": clips, "seed": seed, "steps": run_steps}
        results[name] |= {"attribute_weight": attribute_weight, "words": sorted(caption_words())}
        weights = next(folder.glob("*.safetensors"))
        results[name] |= {"seconds": round(time.monotonic() - started), "curve": curve}
        results[name] |= {"file": weights.name, "sha256": sha256_of(weights)}
        validate = VALIDATIONS[name]
        results[name]["validation"] = validate(folder, clips=validation_clips, seed=seed, progress=progress)
        _write_json(folder / "recipe.json", results[name])
    return results


# --- data --------------------------------------------------------------------------------
def render_pool(
    clips: int, frames: int, size: int, seed: int, *, split: Split = "train", progress: bool = True
) -> Pool:
    """Render ``clips`` scenes of a split at ``frames`` even times, ``size`` x ``size`` pixels."""
    rng = np.random.default_rng([seed, clips, frames])
    scenes = [sample_scene(rng, split=split) for _ in range(clips)]
    videos = torch.empty(clips, frames, 3, size, size, dtype=torch.uint8)
    times = frame_times(frames)
    for index, scene in enumerate(tqdm(scenes, "render", disable=not progress)):
        videos[index] = torch.from_numpy(render(scene, times, size).video).permute(0, 3, 1, 2)
    return Pool(videos, np.array([attributes_of(s) for s in scenes]), [s.caption for s in scenes])


def attributes_of(scene: Scene) -> list[int]:
    """Return the scene's nine attribute indices, ``ABSENT`` for a missing second object."""
    row: list[int] = []
    for index in range(2):
        if index < len(scene.objects):
            item = scene.objects[index]
            row += [SIZES.index(item.size), COLOURS.index(item.colour)]
            row += [SHAPES.index(item.shape), MOTIONS.index(item.motion)]
        else:
            row += [ABSENT] * 4
    return [*row, BACKGROUNDS.index(scene.background)]


def caption_of(row: Sequence[int]) -> str:
    """Write the caption of an attribute row, leaving out ``ANY`` (a shape left out is an "object")."""
    words = [NAMES[i][value] if value >= 0 else "" for i, value in enumerate(row)]
    phrases = []
    for first in (0, 4):
        if row[first + 2] != ABSENT:
            size, colour, shape, motion = words[first : first + 4]
            phrases.append(_with_article(" ".join(filter(None, [size, colour, shape or "object", motion]))))
    return " and ".join(phrases) + (f" on {_with_article(words[8])} background" if words[8] else "")


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def caption_words() -> set[str]:
    """Return every word a caption can hold."""
    names = {word for group in NAMES for name in group for word in name.split()}
    return names | {"a", "an", "and", "on", "background", "object"}


def write_bpe(path: Path, words: set[str]) -> None:
    """Write a byte-pair table in open_clip's format in which every known word is one token."""
    merges: dict[str, None] = {}
    for word in sorted(words):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[" ".join(pieces[-2:])] = None  # from the end, so that no other word's merge comes between
            pieces[-2:] = ["".join(pieces[-2:])]
    lines = "\n".join(["#version: sprites", *merges])
    _replace(path, lambda target: target.write_bytes(gzip.compress(lines.encode(), mtime=0)))


def _shortened(rows: np.ndarray, rng: np.random.Generator, rate: float = 0.12) -> np.ndarray:
    """Leave each attribute out of the caption with probability ``rate``, and a motion no caption tells."""
    dropped = (rng.random(rows.shape) < rate) & (rows != ABSENT)
    return _tellable(np.where(dropped, ANY, rows))


def _tellable(rows: np.ndarray) -> np.ndarray:
    disordered = (rows == DISORDERED) & np.isin(np.arange(rows.shape[1]), MOTION_COLUMNS)
    return np.where(disordered, ANY, rows)


def _altered(rows: np.ndarray, rng: np.random.Generator, columns: Sequence[int]) -> np.ndarray:
    """Change one attribute of each row, among those of ``columns`` it has."""
    out = rows.copy()
    for row in out:
        present = [column for column in columns if row[column] != ABSENT]
        column = present[int(rng.integers(len(present)))]
        row[column] = (row[column] + rng.integers(1, len(NAMES[column]))) % len(NAMES[column])
    return _tellable(out)


def _compatible(captions: np.ndarray, clips: np.ndarray, columns: Sequence[int]) -> Tensor:
    """Tell which captions (C, 9) are true of which clips (N, 9), looking at ``columns`` only: (N, C) bool."""
    a, b = captions[None, :, columns], clips[:, None, columns]
    return torch.from_numpy(((a == ANY) | (a == b)).all(-1))


# --- training --------------------------------------------------------------------------------
def _train_clip(folder: Path, pool: Pool, run: _Run) -> list[list[float]]:
    import open_clip

    tokenizer = load_tokenizer(folder, CLIP_CONFIG["model_cfg"]["text_cfg"]["context_length"])
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = tokenizer.vocab_size
    _write_json(folder / "open_clip_config.json", config)
    model = open_clip.CLIP(**config["model_cfg"]).to(run.device, memory_format=torch.channels_last)
    visible = [i for i in range(9) if i not in MOTION_COLUMNS]  # one frame does not show motion
    frames = pool.videos.shape[1]

    def batch() -> tuple[Tensor, np.ndarray]:
        chosen = run.rng.integers(len(pool.videos), size=192)
        images = pool.videos[torch.from_numpy(chosen), torch.from_numpy(run.rng.integers(frames, size=192))]
        return _augment(images, run.rng).to(run.device) / 127.5 - 1, pool.attributes[chosen]

    changed = (0, 1, 2, 8)
    task = _Task(visible, changed, (changed, changed))
    curve = _fit(model, (model.encode_image, model.encode_text), batch, tokenizer, task, run)
    _save(model, folder / "open_clip_model.safetensors")
    return curve


def _train_video(folder: Path, pool: Pool, run: _Run) -> list[list[float]]:
    tokenizer = load_tokenizer(folder, VIDEO_CONFIG["text"]["context_length"])
    _write_json(folder / "config.json", VIDEO_CONFIG)
    model = VideoTextModel(VIDEO_CONFIG, tokenizer.vocab_size).to(run.device)

    def batch() -> tuple[Tensor, np.ndarray]:
        chosen = run.rng.integers(len(pool.videos), size=CLIPS_PER_BATCH)
        videos, rows = pool.videos[torch.from_numpy(chosen)], pool.attributes[chosen].copy()
        for index in np.flatnonzero(run.rng.random(len(rows)) < 0.5):
            videos[index], rows[index] = videos[index].flip(0), _moving_as(rows[index], BACKWARDS)
        twins = [_twin(v, row, run.rng) for v, row in zip(videos[::2], rows[::2], strict=True)]
        videos = torch.cat([videos, torch.stack([video for video, _ in twins])])
        gain = torch.from_numpy(run.rng.uniform(0.92, 1.08, (len(videos), 1, 1, 1, 1))).float()
        rows = np.concatenate([rows, np.stack([row for _, row in twins])])
        return (videos * gain).clamp_(0, 255).to(run.device), rows

    task = _Task(range(9), range(9), (MOTION_COLUMNS, (0, 1, 2, 4, 5, 6, 8)))
    curve = _fit(model, (model.video, model.text), batch, tokenizer, task, run)
    _save(model, folder / "model.safetensors")
    return curve


def _twin(video: Tensor, row: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Return the same objects moving otherwise: the clip backwards, held on one frame, or out of order."""
    kind = int(rng.integers(3))
    if kind == 0:
        return video.flip(0), _moving_as(row, BACKWARDS)
    still = MOTIONS.index("standing still")
    if kind == 1:
        at = 0 if rng.random() < 0.5 else int(rng.integers(len(video)))
        return video[at].expand_as(video), _moving_as(row, np.full(len(MOTIONS), still))
    disordered = np.full(len(MOTIONS), DISORDERED)
    disordered[still] = still
    return video[torch.from_numpy(rng.permutation(len(video)))], _moving_as(row, disordered)


def _moving_as(row: np.ndarray, motions: np.ndarray) -> np.ndarray:
    """Replace the motion of each object of an attribute row by ``motions[motion]``."""
    out = row.copy()
    for column in MOTION_COLUMNS:
        if row[column] != ABSENT:
            out[column] = motions[row[column]]
    return out


def _augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary brightness, sharpness and noise of uint8 images, so that generated frames are read too."""
    x = images.float() * torch.from_numpy(rng.uniform(0.9, 1.1, (len(images), 1, 1, 1))).float()
    soft = torch.from_numpy(rng.random(len(images)) < 0.3)
    size = int(rng.integers(28, 56))
    small = nn.functional.interpolate(x[soft], size=size, mode="bilinear", antialias=True)
    x[soft] = nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear")
    x = x + torch.from_numpy(rng.normal(0, rng.uniform(0, 6), x.shape).astype(np.float32))
    return x.clamp(0, 255)


def _fit(
    model: nn.Module,
    encoders: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    batch: Callable[[], tuple[Tensor, np.ndarray]],
    tokenizer: Any,
    task: _Task,
    run: _Run,
) -> list[list[float]]:
    """Minimise InfoNCE in both directions with several positives and hard negative captions.

    A linear reading of the attributes from the visual embedding is trained beside it and thrown away: it tells
    the visual tower what matters long before the captions do.
    """
    readers = nn.ModuleDict(
        {str(c): nn.Linear(EMBED_DIM, len(NAMES[c]) + (c in MOTION_COLUMNS)) for c in task.read}
    ).to(run.device)
    weights = [*model.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, run.steps))
    curve: list[list[float]] = []
    model.train()
    for step in (bar := tqdm(range(run.steps), "train", disable=not run.progress)):
        inputs, rows = batch()
        captions = np.concatenate(
            [_shortened(rows, run.rng)] + [_altered(rows, run.rng, changed) for changed in task.changed]
        )
        truth = _compatible(captions, rows, list(task.compared)).to(run.device)
        tokens = tokenizer([caption_of(row) for row in captions]).to(run.device)
        # The fused attention of torch is several times slower than matrix products on a CPU with bfloat16.
        with torch.autocast(torch.device(run.device).type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            visual, text = (
                nn.functional.normalize(encode(x).float(), dim=-1)
                for encode, x in zip(encoders, (inputs, tokens), strict=True)
            )
        scale = model.get_parameter("logit_scale").exp()
        loss = _contrastive(scale * visual @ text.T, truth)
        told = torch.from_numpy(rows).to(run.device)
        read = sum(
            cross_entropy(readers[str(c)](10 * visual), told[:, c], ignore_index=ABSENT, reduction="sum")
            for c in task.read
        )
        optimizer.zero_grad(set_to_none=True)
        (loss + run.attribute_weight * read / (len(rows) * len(task.read))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.get_parameter("logit_scale").clamp_(0, math.log(60))
        if step % 50 == 0 or step == run.steps - 1:
            curve.append([step, round(loss.item(), 4)])
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    return curve


def _contrastive(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy towards uniform over the true captions of a clip, and the true clips of a caption."""
    rows = truth / truth.sum(1, keepdim=True)
    told = truth.any(0)
    columns = truth[:, told] / truth[:, told].sum(0, keepdim=True)
    by_clip = -(rows * logits.log_softmax(1)).sum(1).mean()
    by_caption = -(columns * logits[:, told].log_softmax(0)).sum(0).mean()
    return (by_clip + by_caption) / 2


def _cosine(step: int, steps: int) -> float:
    warm = min(100, max(1, steps // 10))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _save(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    _replace(path, lambda target: save_file(state, target))


def _write_json(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1) + "\n"
    _replace(path, lambda target: target.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(partial)
        partial.chmod(0o644)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# --- validation --------------------------------------------------------------------------------
def validate_clip(
    folder: Path, *, clips: int = 512, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Return the share of clips whose true caption scores above one with one attribute changed, by attribute.

    The clips have held-out combinations of attributes; ties count half, so a motion caption that frames cannot
    tell apart gives one half.
    """
    clip, pool = ClipModel.load(f"local-dir:{folder}"), held_out_pool(clips, seed, progress=progress)
    with torch.no_grad():
        frames = torch.cat([clip.embed_frames(video).mean(0, keepdim=True) for video in pool.videos])
        return _attribute_rates(frames, clip.embed_texts, pool, seed)


def validate_video(
    folder: Path, *, clips: int = 512, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Return the rates of ``video_rates`` and the Fréchet distances of distorted sets to clean clips."""
    rates = video_rates(folder, clips=clips, seed=seed, progress=progress)
    return rates | _frechet_reactions(load_video_text_model(folder)[0], clips, seed, progress)


def video_rates(folder: Path, *, clips: int = 512, seed: int = 0, progress: bool = True) -> dict[str, float]:
    """Return the rates of ``validate_clip`` for a video-text model."""
    model, tokenizer = load_video_text_model(folder)
    pool = held_out_pool(clips, seed, progress=progress)
    videos = torch.cat([model.encode_video(part) for part in pool.videos.split(64)])
    return _attribute_rates(videos, lambda captions: model.encode_text(tokenizer(captions)), pool, seed)


VALIDATIONS: dict[str, Callable[..., dict[str, float]]] = {"clip": validate_clip, "video": validate_video}


def held_out_pool(clips: int, seed: int, *, progress: bool = True) -> Pool:
    """Render clips of the embedded models' size with combinations of attributes that were not trained on."""
    frames, size = VIDEO_CONFIG["frames"], VIDEO_CONFIG["size"]
    return render_pool(clips, frames, size, seed + 7919, split="held_out", progress=progress)


def _attribute_rates(
    visual: Tensor, embed: Callable[[list[str]], Tensor], pool: Pool, seed: int
) -> dict[str, float]:
    rng, rates, right = np.random.default_rng([seed, 1]), {}, (visual * embed(pool.captions)).sum(1)
    for name, column in (("size", 0), ("colour", 1), ("shape", 2), ("motion", 3), ("background", 8)):
        wrong = [caption_of(row) for row in _altered(pool.attributes, rng, [column])]
        margin = right - (visual * embed(wrong)).sum(1)
        rates[f"right_over_wrong_{name}"] = float((margin.sign().double().mean() + 1) / 2)
    return rates


def _frechet_reactions(model: VideoTextModel, clips: int, seed: int, progress: bool) -> dict[str, float]:
    frames, size = VIDEO_CONFIG["frames"], VIDEO_CONFIG["size"]
    real = render_pool(2 * clips, frames, size, seed + 104729, split="any", progress=progress).videos
    fake = render_pool(clips, frames, size, seed + 15485863, split="any", progress=progress).videos

    def features(videos: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([model.video(part) for part in videos.split(64)])

    target = features(real)
    return {
        f"frechet_{name}": round(float(frechet_distance(features(make(fake)), target)), 4)
        for name, make in DISTORTIONS.items()
    }


def _blur(videos: Tensor, size: int) -> Tensor:
    x = videos.flatten(0, 1).float()
    small = nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
    return nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear").round().view_as(videos).byte()


def _noise(videos: Tensor, sigma: float) -> Tensor:
    draw = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    return (videos + sigma * draw).round().clamp(0, 255).byte()


def _shuffle(videos: Tensor) -> Tensor:
    order = torch.randperm(videos.shape[1], generator=torch.Generator().manual_seed(1))
    return videos[:, order]


DISTORTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": lambda videos: videos,
    "freeze": lambda videos: videos[:, :1].expand_as(videos),
    "shuffle": _shuffle,
    "reverse": lambda videos: videos.flip(1),
    "blur_32": lambda videos: _blur(videos, 32),
    "blur_16": lambda videos: _blur(videos, 16),
    "noise_10": lambda videos: _noise(videos, 10),
    "noise_40": lambda videos: _noise(videos, 40),
    "collapse": lambda videos: videos[:1].expand_as(videos) if len(videos) else videos,
}
