"""Train the judge of the sprites domain: on rendered clips, then on frames as decoders and denoisers leave them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor
from tqdm import tqdm

from magicvideo.sprites.judge import FRAMES, SIDE, SpritesJudge, agreement, prepare, targets
from magicvideo.sprites.render import render
from magicvideo.sprites.scene import Scene, Split, sample_scene
from magicvideo.training.autoencoder import as_denoised
from magicvideo.training.diffusion import encode_frames
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train

PHASES = (
    TrainConfig(steps=2600, batch_size=12, learning_rate=2e-3, seed=8, cooldown=0.5, ema_decay=0.998),
    TrainConfig(steps=1300, batch_size=12, learning_rate=1e-3, seed=18, cooldown=1.0, ema_decay=0.998),
)

# A judge of clean clips took hexagons whose corners an autoencoder had rounded for circles: of true opening frames it
# read 99 in 100 right, of the same ones through the autoencoder 95.
OPENINGS = TrainConfig(
    steps=2500, batch_size=6, learning_rate=1.5e-3, seed=28, warmup=50, cooldown=0.9, ema_decay=0.998
)
ROUNDING = 0.15  # most of it at corners, in units of an object's radius
WAVER = 0.008  # largest deviation of a wavering outline, in units of the frame's side


def judged_clips(
    count: int, seed: int, *, split: Split, num_objects: Sequence[int] | None = None, rounding: float = 0.0
) -> tuple[Tensor, list[Scene]]:
    """Render ``count`` clips of six frames ``(count, 6, 3, 128, 128)`` uint8, and return their scenes.

    Args:
        count: clips.
        seed: of the scenes.
        split: see ``sample_scene``.
        num_objects: of the clips, in turn; as often as in the domain by default.
        rounding: most that a clip's corners are rounded by (see ``render``).
    """
    clips = np.empty((count, FRAMES, SIDE, SIDE, 3), np.uint8)
    scenes = []
    for index in tqdm(range(count), desc="clips to judge", mininterval=5):
        rng = np.random.default_rng([seed, index])
        objects = None if num_objects is None else num_objects[index % len(num_objects)]
        scene = sample_scene(rng, split=split, num_objects=objects)
        times = np.linspace(0, 1, FRAMES)
        times[1:-1] += rng.uniform(-0.05, 0.05, FRAMES - 2)
        clips[index] = render(scene, times, SIDE, rounding=rounding * rng.random()).video
        scenes.append(scene)
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3), scenes


def train_judge(
    folder: Path,
    phases: Sequence[TrainConfig] = PHASES,
    *,
    clips: int = 4000,
    held_out: int = 512,
    device: str = "cpu",
) -> dict[str, object]:
    """Train the judge on ``clips`` clips into ``folder``, phase by phase, each on clips of its own.

    Returns:
        The recipe of the last phase, with the accuracy on ``held_out`` clips of one object.
    """
    torch.manual_seed(phases[0].seed)
    judge = SpritesJudge().to(device, memory_format=torch.channels_last)
    recipe: dict[str, object] = {}
    for number, config in enumerate(phases, 1):
        pool, scenes = judged_clips(clips, config.seed, split="train")
        loss_of = _loss_on(judge, pool, targets(scenes), config)
        validate = partial(_accuracy, judge, held_out) if number == len(phases) else None
        place = folder if number == len(phases) else folder / f"phase-{number}"
        recipe = train("judge", dict(judge.named_parameters()), loss_of, config, place, validate=validate)
    judge.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / "model")
    return recipe


@torch.no_grad()
def judged_openings(
    vae: AutoencoderTiny,
    count: int,
    size: int,
    seed: int,
    *,
    split: Split,
    num_objects: Sequence[int] = (1,),
    rounding: float = 0.0,
) -> tuple[Tensor, list[Scene]]:
    """Render opening frames of ``size`` pixels and take each through ``vae``, its latents as a denoiser leaves them.

    See ``judged_clips``.

    Returns:
        Frames ``(count, 1, 3, 128, 128)`` uint8, and their scenes.
    """
    rng, generator = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    objects = itertools.islice(itertools.cycle(num_objects), count)
    scenes = [sample_scene(rng, split=split, num_objects=number) for number in objects]
    frames = []
    for scene in tqdm(scenes, desc="openings to judge", mininterval=5):
        video = render(scene, np.zeros(1), size, rounding=rounding * rng.random()).video
        drawn = torch.from_numpy(video).permute(0, 3, 1, 2)
        latents = encode_frames(vae, drawn).to(vae.device, torch.float32)
        unit = latents.std((2, 3), keepdim=True)
        with torch.autocast(vae.device.type, torch.bfloat16):
            decoded = vae.decode(as_denoised(latents, unit, generator)).sample.float().cpu()
        levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        frames.append((prepare(levels[None]) * 255).round().to(torch.uint8))
    return torch.cat(frames), scenes


def train_on_openings(
    judge: SpritesJudge,
    vae: AutoencoderTiny,
    folder: Path,
    config: TrainConfig = OPENINGS,
    *,
    size: int = 264,
    clips: int = 1500,
    openings: int = 4000,
    held_out: int = 512,
) -> dict[str, object]:
    """Train ``judge`` further into ``folder``, on clips and on as many opening frames, all with wavering outlines.

    The frames have gone through ``vae`` at ``size`` pixels. None was generated: the judge must not learn what a
    denoiser gets wrong.

    Returns:
        The recipe, with the accuracy on ``held_out`` clips, their first frames, and opening frames through ``vae``.
    """
    judge.to(memory_format=torch.channels_last).train().requires_grad_()
    shown: dict[str, Any] = {"split": "train", "num_objects": (1, 2), "rounding": ROUNDING}
    pool, scenes = judged_clips(clips, config.seed, **shown)
    stills, still_scenes = judged_openings(vae, openings, size, config.seed, **shown)
    of_clips = _loss_on(judge, pool, targets(scenes), config, wavering=True)
    singles = replace(config, batch_size=config.batch_size * FRAMES)
    of_openings = _loss_on(judge, stills, targets(still_scenes), singles, wavering=True)

    def validate() -> dict[str, float]:
        frames, truth = judged_openings(vae, held_out, size, 9, split="held_out")
        seen = agreement(judge.eval().judge(frames), truth)
        through = {f"{name}_through_the_autoencoder": _mean(values) for name, values in seen.items()}
        pairs = {f"{name}_of_two": value for name, value in _accuracy(judge, held_out, objects=2).items()}
        return _accuracy(judge, held_out) | through | pairs

    def loss_of(step: int) -> Tensor:
        return of_clips(step) + of_openings(step)

    recipe = train("judge", dict(judge.named_parameters()), loss_of, config, folder, validate=validate)
    judge.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / "model")
    return recipe


def _loss_on(
    judge: SpritesJudge,
    pool: Tensor,
    wanted: dict[str, Tensor],
    config: TrainConfig,
    *,
    wavering: bool = False,
) -> Callable[[int], Tensor]:
    def loss_of(step: int) -> Tensor:
        generator = torch_generator(step_rng(config.seed, step))
        which = torch.randint(len(pool), (config.batch_size,), generator=generator)
        frames = prepare(pool[which])
        frames = waver(frames, generator) if wavering else blur(frames, generator)
        logits = judge(spoil(frames, generator).to(judge.device))
        return judge_loss(logits, {name: values[which].to(judge.device) for name, values in wanted.items()})

    return loss_of


def _accuracy(judge: SpritesJudge, count: int, *, objects: int = 1) -> dict[str, float]:
    """Return the share of held-out clips of so many objects that the judge reads right, whole and by first frame."""
    clips, truth = judged_clips(count, 9, split="held_out", num_objects=(objects,))
    whole = agreement(judge.eval().judge(clips), truth)
    opening = agreement(judge.judge(clips[:, :1]), truth)
    judge.train()
    accuracy = {name: _mean(values) for name, values in whole.items()}
    return accuracy | {f"{name}_of_first_frame": _mean(values) for name, values in opening.items()}


def _mean(values: Tensor) -> float:
    return round(float(values.double().mean()), 4)


def judge_loss(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Return the sum of cross-entropies over heads; every frame is asked for its attributes, a clip for its motion."""
    length = logits["background"].shape[1]
    loss = torch.zeros(())
    if "motion" in logits:
        loss = F.cross_entropy(logits["motion"].flatten(0, 1), wanted["motion"].flatten())
    for name in ("size", "colour", "shape"):
        repeated = wanted[name][:, None].expand(-1, length, -1)
        loss = loss + F.cross_entropy(logits[name].flatten(0, 2), repeated.flatten())
    background = wanted["background"][:, None].expand(-1, length)
    loss = loss + F.cross_entropy(logits["background"].flatten(0, 1), background.flatten())
    second = wanted["second"][:, None].expand(-1, length).float()
    return loss + F.binary_cross_entropy_with_logits(logits["second"], second)


def waver(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Shift the pixels of frames ``(B, T, 3, S, S)`` smoothly, each frame by a field of its own."""
    count, length, _, side, _ = frames.shape
    cells = int(torch.randint(6, 17, (), generator=generator))
    size = 2 * WAVER * torch.rand((count, 1, 1, 1, 1), generator=generator)  # a frame is two units wide
    field = size * torch.randn((count, length, 2, cells, cells), generator=generator)
    field = F.interpolate(field.flatten(0, 1), (side, side), mode="bicubic").permute(0, 2, 3, 1)
    still = F.affine_grid(
        torch.eye(2, 3).expand(count * length, 2, 3), [count * length, 3, side, side], False
    )
    moved = F.grid_sample(frames.flatten(0, 1), still + field, padding_mode="border", align_corners=False)
    return moved.unflatten(0, (count, length))


def blur(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur every second batch ``(B, T, 3, S, S)``, as if it were 35 to 85 % as large."""
    share = float(torch.rand((), generator=generator))
    if share >= 0.5:
        return frames
    small = F.interpolate(frames.flatten(0, 1), scale_factor=0.35 + share, mode="bilinear", antialias=True)
    return F.interpolate(small, size=frames.shape[-2:], mode="bilinear").unflatten(0, frames.shape[:2])


def spoil(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change the light of clips ``(B, T, 3, S, S)`` in [0, 1] and add noise, since generated frames are not clean."""
    noise, light = torch.rand(2, generator=generator).tolist()
    grain = torch.randn(frames.shape, generator=generator)
    return (frames * (0.9 + 0.2 * light) + 0.06 * noise * grain).clamp(0, 1)
