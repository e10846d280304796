"""Train the sprites interpolator on keyframe pairs and the true frames between them."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from magicvideo.sprites.render import render
from magicvideo.sprites.scene import Scene, Split, sample_scene
from magicvideo.training.loop import TrainConfig, sha256_of, step_rng, torch_generator, train, write_json
from magicvideo.vfi.baselines import fade, hold
from magicvideo.vfi.interpolator import Interpolator, Predictor
from magicvideo.vfi.quality import cadence_ratio, moving_region, psnr, sharpness

logger = logging.getLogger(__name__)

NUM_KEYFRAMES = 32
THIRDS = (1 / 3, 2 / 3)
VALIDATE_EVERY = 250


@dataclass(frozen=True)
class GapPool:
    """Gaps of 32-keyframe clips of ``S x S`` pixels, with what is true inside them.

    Attributes:
        frames: ``(N, 5, 3, S, S)`` uint8: keyframe, at 1/3, at ``time``, at 2/3, keyframe.
        time: ``(N,)`` float in (0.1, 0.9).
        flow: ``(N, 3, 4, S / 4, S / 4)`` half: from the three times between, dy and dx into the first
            keyframe, then into the second, in pixels.
        box: ``(N, 4)`` top, bottom, left, right of what changes.
    """

    frames: Tensor
    time: Tensor
    flow: Tensor
    box: Tensor


def build_interpolator() -> Interpolator:
    """Return the untrained interpolator of the sprites preset (0.33 M parameters)."""
    return Interpolator(
        widths=(16, 32, 64), head_widths=(24, 16), kernel_size=3, flow_widths=(48, 24), scale=2
    )


def gap_pool(count: int, size: int, seed: int, *, split: Split = "train", progress: bool = True) -> GapPool:
    """Render ``count`` gaps, each of its own scene in which something moves."""
    frames = torch.empty(count, 5, 3, size, size, dtype=torch.uint8)
    flow = torch.empty(count, 3, 4, size // 4, size // 4, dtype=torch.half)
    time, box = torch.empty(count), torch.empty(count, 4, dtype=torch.long)
    for index in tqdm(range(count), desc=f"gaps {size} px", disable=not progress):
        rng = np.random.default_rng([seed, index])
        scene = _moving_scene(rng, split)
        time[index] = float(rng.uniform(0.1, 0.9))
        inside = np.array([THIRDS[0], float(time[index]), THIRDS[1]])
        gap = int(rng.integers(NUM_KEYFRAMES - 1))
        times = (gap + np.array([0, *inside, 1])) / (NUM_KEYFRAMES - 1)
        frames[index] = torch.from_numpy(render(scene, times, size).video).permute(0, 3, 1, 2)
        for which in range(3):
            flow[index, which] = _true_flow(scene, times[1 + which], times[0], times[-1], size)
        box[index] = _changing_box(frames[index])
    return GapPool(frames, time, flow, box)


def train_vfi(
    out_dir: Path,
    steps: int = 900,
    seed: int = 0,
    device: str = "cpu",
    *,
    pool: GapPool,
    validation: GapPool,
    flow_steps: int = 600,
    batch_size: int = 2,
    crops: tuple[int, int] = (128, 96),
    save_every: int = 250,
    autocast: bool = True,
    progress: bool = True,
) -> dict[str, object]:
    """Train the interpolator and leave it in ``out_dir/model``, in half precision, with its recipe beside it.

    First the coarse flow learns the true flow. Then it stays as it is, as the pretrained flow interpolator of
    the paper does, and the EDSC network learns the frames at 1/3 and 2/3, or at one random time and 1/3:
    Charbonnier plus Laplacian pyramid (as EMA-VFI's), plus the cadence term, which asks the three steps inside
    a gap to have their true sizes. Interrupted runs resume.

    Args:
        out_dir: ``flow/`` and ``edsc/`` (checkpoints) and ``model/`` are written here.
        steps: optimiser steps of the EDSC network.
        seed: of the weights and of all draws.
        device: where the model is trained.
        pool: training gaps.
        validation: held-out gaps; PSNR against blend and repeat is logged on the way.
        flow_steps: optimiser steps of the coarse flow, each on four batches at once.
        batch_size: gaps in one step; each gives two frames.
        crops: pixels per side of what the flow and what the EDSC network is trained on; multiples of 16.
        save_every: steps between checkpoints.
        autocast: forward passes in bfloat16, positions in pixels included: faster, and less exact.

    Returns:
        The recipe: configurations, seed, loss curves, validation figures on the way and at the end, SHA-256.
    """
    torch.manual_seed(seed)
    model = build_interpolator().to(device)
    shared = {
        "learning_rate": 1.5e-3,
        "seed": seed,
        "cooldown": 0.6,
        "weight_decay": 1e-4,
        "ema_decay": 0.995,
        "autocast": autocast,
    }
    history = _History(out_dir / "validation.json")

    def flow_of(step: int) -> Tensor:
        return flow_loss(model, draw_batch(pool, 4 * batch_size, crops[0], step_rng(seed, step)).to(device))

    def frames_of(step: int) -> Tensor:
        if step % VALIDATE_EVERY == 0:
            history.add(step, evaluate(model.predict, validation, device=device))
        return gap_loss(model, draw_batch(pool, batch_size, crops[1], step_rng(seed + 1, step)).to(device))

    recipe: dict[str, object] = {
        "part": "interpolator",
        "seed": seed,
        "gaps": len(pool.frames),
        "crops": crops,
    }
    parts = {"flow": (flow_steps, 4 * batch_size, flow_of), "edsc": (steps, batch_size, frames_of)}
    for name, (count, size, loss_of) in parts.items():
        config = TrainConfig(steps=count, batch_size=size, save_every=save_every, **shared)  # type: ignore[arg-type]
        parameters = dict(model.get_submodule(name).named_parameters())
        recipe[name] = train(name, parameters, loss_of, config, out_dir / name, progress=progress)
        model.get_submodule(name).requires_grad_(False)
    for name, predict in candidates(model).items():
        recipe[name] = evaluate(predict, validation, device=device)
        logger.info("%s on held-out gaps: %s", name, recipe[name])
    return _export(model, recipe | {"on_the_way": history.figures}, out_dir / "model")


class _History:
    """Validation figures by step, kept in a file so that a resumed run has them all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, step: int, figures: dict[str, float]) -> None:
        logger.info("step %d: %s", step, figures)
        self.figures[str(step)] = figures
        write_json(self.path, self.figures)


def _export(model: Interpolator, recipe: dict[str, object], folder: Path) -> dict[str, object]:
    """Write the model in half precision with its recipe, to which the weights' SHA-256 is added."""
    model.half().save_pretrained(folder)
    recipe = {**recipe, "sha256": sha256_of(folder / "diffusion_pytorch_model.safetensors")}
    write_json(folder / "recipe.json", recipe)
    return recipe


def candidates(model: Interpolator) -> dict[str, Predictor]:
    """Return the interpolator and what it must beat."""
    return {"interpolator": model.predict, "blend": fade, "repeat": hold}


@torch.no_grad()
def evaluate(predict: Predictor, pool: GapPool, *, device: str = "cpu") -> dict[str, float]:
    """Measure frames at 1/3 and 2/3 against the true ones.

    Returns:
        Means over the pool: ``psnr_moving_db`` where the gap changes, ``psnr_db`` of whole frames,
        ``cadence_ratio``, and ``sharpness``, the ratio of the predicted frames' Laplacian variance to that of
        the keyframes.
    """
    rows = []
    for frames in pool.frames:
        clip = frames[None, [0, 1, 3, 4]].to(device).float() / 255
        between = predict(clip[:, 0], clip[:, 3], THIRDS).clamp(0, 1)
        made = torch.cat([clip[:, :1], between, clip[:, 3:]], 1)
        region = moving_region(clip).expand(2, -1, -1, -1)
        edges = sharpness(made)[0]
        rows.append(
            [
                float(psnr(between[0], clip[0, 1:3], region).mean()),
                float(psnr(between[0], clip[0, 1:3]).mean()),
                float(cadence_ratio(made)),
                float((edges[1] + edges[2]) / (edges[0] + edges[3])),
            ]
        )
    names = ("psnr_moving_db", "psnr_db", "cadence_ratio", "sharpness")
    return {name: round(float(value), 4) for name, value in zip(names, np.mean(rows, 0), strict=True)}


@dataclass(frozen=True)
class GapBatch:
    """Keyframes ``first`` and ``second`` ``(B, 3, h, w)``, and two times ``(B, 2)`` with the true ``frames``
    ``(B, 2, 3, h, w)`` and ``flow`` ``(B, 2, 4, h / 4, w / 4)`` there."""

    first: Tensor
    second: Tensor
    time: Tensor
    frames: Tensor
    flow: Tensor

    def to(self, device: str) -> "GapBatch":
        """Return the batch on ``device``."""
        return GapBatch(*(part.to(device) for part in vars(self).values()))


def draw_batch(pool: GapPool, count: int, crop: int, rng: np.random.Generator) -> GapBatch:
    """Draw crops around what changes: mirrored, recoloured, keyframes as imperfect as generated ones."""
    generator = torch_generator(rng)
    samples = [_draw_gap(pool, int(rng.integers(len(pool.frames))), crop, rng) for _ in range(count)]
    first, second, time, frames, flow = (torch.stack(part) for part in zip(*samples, strict=True))
    disturbed = _disturb(first, second, time, frames, generator)
    return GapBatch(disturbed[0], disturbed[1], time, disturbed[2], flow)


def gap_loss(model: Interpolator, batch: GapBatch) -> Tensor:
    """Return the training loss of a batch."""
    first, second = (frame.repeat_interleave(2, 0) for frame in (batch.first, batch.second))
    made = model(first, second, batch.time.flatten())
    target = batch.frames.flatten(0, 1)
    cadence = cadence_loss(batch, made.unflatten(0, (-1, 2)))
    return charbonnier(made, target) + laplacian_loss(made, target) + cadence


def flow_loss(model: Interpolator, batch: GapBatch) -> Tensor:
    """Return the error of the coarse flow alone, in pixels."""
    first, second = (frame.repeat_interleave(2, 0) for frame in (batch.first, batch.second))
    return flow_error(model.flow(first, second, batch.time.flatten()), batch.flow.flatten(0, 1))


def flow_error(preds: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of flows in pixels; what moves counts five times."""
    weight = 1 + 4 * (target.abs().amax(1, keepdim=True) > 0.1).to(target.dtype)
    return ((preds - target).abs() * weight).mean()


def charbonnier(preds: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of ``sqrt((preds - target)^2 + epsilon^2) - epsilon``."""
    return ((preds - target).square() + epsilon**2).sqrt().mean() - epsilon


def laplacian_loss(preds: Tensor, target: Tensor, levels: int = 4) -> Tensor:
    """Return the mean absolute error of the bands of Laplacian pyramids, summed over the bands."""
    error = preds - target  # pyramids are linear: the pyramid of the error is the error of the pyramids
    loss = error.new_zeros(())
    for _ in range(levels):
        low = _blur(error)
        loss = loss + (error - low).abs().mean()
        error = low[..., ::2, ::2]
    return loss + error.abs().mean()


def cadence_loss(batch: GapBatch, preds: Tensor) -> Tensor:
    """Return how far the mean absolute steps keyframe, earlier, later frame, keyframe are from the true ones.

    Args:
        batch: keyframes, times and true frames.
        preds: ``(B, 2, 3, h, w)``.
    """
    order = batch.time.argsort(1)[:, :, None, None, None].expand_as(preds)
    sizes = []
    for frames in (preds.gather(1, order), batch.frames.gather(1, order)):
        clip = torch.cat([batch.first[:, None], frames, batch.second[:, None]], 1)
        sizes.append((clip[:, 1:] - clip[:, :-1]).abs().mean((2, 3, 4)))
    return (sizes[0] - sizes[1]).abs().mean()


def _blur(x: Tensor) -> Tensor:
    taps = torch.tensor([1, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])


def _moving_scene(rng: np.random.Generator, split: Split) -> Scene:
    while True:
        scene = sample_scene(rng, split=split)
        if any(item.motion != "standing still" for item in scene.objects):
            return scene


def _true_flow(scene: Scene, time: float, first: float, second: float, size: int) -> Tensor:
    """Return ``(4, size / 4, size / 4)``: dy, dx from ``time`` to ``first``, then to ``second``."""
    parts = []
    for key in (first, second):
        flow = torch.from_numpy(render(scene, np.array([time, key]), size).flow[0]).permute(2, 0, 1)
        parts.append(F.avg_pool2d(flow.flip(0)[None], 4)[0])
    return torch.cat(parts)


def _changing_box(frames: Tensor) -> Tensor:
    changed = (frames.amax(0).int() - frames.amin(0).int()).amax(0) > 8
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    if not len(rows):
        side = frames.shape[-1]
        return torch.tensor([0, side, 0, side])
    return torch.stack([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])


def _draw_gap(pool: GapPool, index: int, crop: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    size = pool.frames.shape[-1]
    low, high, left, right = pool.box[index].tolist()
    y, x = (
        4 * (int(np.clip(rng.integers(start, stop) - crop // 2, 0, size - crop)) // 4)
        for start, stop in ((low, high), (left, right))
    )
    frames = pool.frames[index, :, rng.permutation(3), y : y + crop, x : x + crop].float() / 255
    flow = pool.flow[index, :, :, y // 4 : (y + crop) // 4, x // 4 : (x + crop) // 4].float()
    time = torch.tensor([THIRDS[0], float(pool.time[index]), THIRDS[1]])
    for axis in (0, 1):
        if rng.random() < 0.5:
            frames, flow = frames.flip(2 + axis), flow.flip(2 + axis)
            flow = (
                flow * torch.tensor([-1.0, 1.0] if axis == 0 else [1.0, -1.0]).repeat(2)[None, :, None, None]
            )
    if rng.random() < 0.5:
        frames, time, flow = frames.flip(0), 1 - time.flip(0), flow.flip(0).roll(2, 1)
    chosen = [0, 2] if rng.random() < 0.75 else [0, 1]
    return frames[0], frames[4], time[chosen], frames[1:4][chosen], flow[chosen]


def _disturb(
    first: Tensor, second: Tensor, time: Tensor, frames: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each keyframe its own error, and ask between them for an error that turns from one into the other.

    Smooth error mixes linearly in time, as a change of light does. Fine error turns with constant power
    (weights cos and sin of a quarter turn), so that the frames between are neither smoother than the
    keyframes nor jump.
    """
    share = time[:, :, None, None, None]
    turn = share * (math.pi / 2)
    smooth, fine = (_amplitude(len(first), most, generator) for most in (0.03, 0.015))
    coarse = [_noise(first, 16, generator) * smooth for _ in range(2)]
    grain = [_noise(first, 1, generator) * fine for _ in range(2)]
    between = torch.lerp(coarse[0][:, None], coarse[1][:, None], share)
    between = between + grain[0][:, None] * turn.cos() + grain[1][:, None] * turn.sin()
    return first + coarse[0] + grain[0], second + coarse[1] + grain[1], frames + between


def _amplitude(count: int, most: float, generator: torch.Generator) -> Tensor:
    """Return ``(count, 1, 1, 1)``: zero for half of the samples, else up to ``most``."""
    drawn = torch.rand(2, count, 1, 1, 1, generator=generator)
    return most * drawn[0] * (drawn[1] < 0.5)


def _noise(like: Tensor, scale: int, generator: torch.Generator) -> Tensor:
    batch, channels, height, width = like.shape
    noise = torch.randn(batch, channels, height // scale, width // scale, generator=generator)
    return (
        noise if scale == 1 else F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    )
