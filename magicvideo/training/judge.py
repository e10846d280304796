"""Train the judge of the sprites domain on rendered clips alone."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from magicvideo.sprites.judge import FRAMES, SIDE, SpritesJudge, agreement, prepare, targets
from magicvideo.sprites.render import render
from magicvideo.sprites.scene import Scene, Split, sample_scene
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train

PHASES = (
    TrainConfig(steps=2600, batch_size=12, learning_rate=2e-3, seed=8, cooldown=0.5, ema_decay=0.998),
    TrainConfig(steps=1300, batch_size=12, learning_rate=1e-3, seed=18, cooldown=1.0, ema_decay=0.998),
)


def judged_clips(
    count: int, seed: int, *, split: Split, num_objects: int | None = None
) -> tuple[Tensor, list[Scene]]:
    """Render ``count`` clips of six frames ``(count, 6, 3, 128, 128)`` uint8, and return their scenes."""
    clips = np.empty((count, FRAMES, SIDE, SIDE, 3), np.uint8)
    scenes = []
    for index in tqdm(range(count), desc="clips to judge", mininterval=5):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng, split=split, num_objects=num_objects)
        times = np.linspace(0, 1, FRAMES)
        times[1:-1] += rng.uniform(-0.05, 0.05, FRAMES - 2)
        clips[index] = render(scene, times, SIDE).video
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


def _loss_on(
    judge: SpritesJudge, pool: Tensor, wanted: dict[str, Tensor], config: TrainConfig
) -> Callable[[int], Tensor]:
    def loss_of(step: int) -> Tensor:
        generator = torch_generator(step_rng(config.seed, step))
        which = torch.randint(len(pool), (config.batch_size,), generator=generator)
        logits = judge(spoil(prepare(pool[which]), generator).to(judge.device))
        return judge_loss(logits, {name: values[which].to(judge.device) for name, values in wanted.items()})

    return loss_of


def _accuracy(judge: SpritesJudge, count: int) -> dict[str, float]:
    """Return the share of held-out clips of one object that the judge reads right, whole and by first frame."""
    clips, truth = judged_clips(count, 9, split="held_out", num_objects=1)
    whole = agreement(judge.eval().judge(clips), truth)
    opening = agreement(judge.judge(clips[:, :1]), truth)
    judge.train()
    accuracy = {name: round(float(values.double().mean()), 4) for name, values in whole.items()}
    return accuracy | {
        f"{name}_of_first_frame": round(float(values.double().mean()), 4) for name, values in opening.items()
    }


def judge_loss(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Return the sum of cross-entropies over heads; every frame of a clip is asked for its attributes."""
    length = logits["background"].shape[1]
    loss = F.cross_entropy(logits["motion"].flatten(0, 1), wanted["motion"].flatten())
    for name in ("size", "colour", "shape"):
        repeated = wanted[name][:, None].expand(-1, length, -1)
        loss = loss + F.cross_entropy(logits[name].flatten(0, 2), repeated.flatten())
    background = wanted["background"][:, None].expand(-1, length)
    loss = loss + F.cross_entropy(logits["background"].flatten(0, 1), background.flatten())
    second = wanted["second"][:, None].expand(-1, length).float()
    return loss + F.binary_cross_entropy_with_logits(logits["second"], second)


def spoil(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur clips ``(B, T, 3, S, S)`` in [0, 1] and add noise, since generated frames are not clean."""
    blur, noise, light = torch.rand(3, generator=generator).tolist()
    if blur < 0.5:
        small = F.interpolate(frames.flatten(0, 1), scale_factor=0.35 + blur, mode="bilinear", antialias=True)
        frames = F.interpolate(small, size=frames.shape[-2:], mode="bilinear").unflatten(0, frames.shape[:2])
    grain = torch.randn(frames.shape, generator=generator)
    return (frames * (0.9 + 0.2 * light) + 0.06 * noise * grain).clamp(0, 1)
