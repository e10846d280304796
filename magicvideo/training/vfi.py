"""Train the sprites interpolator on keyframe pairs and the true frames between them."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicvideo.config import InterpolatorKind
from magicvideo.training.gaps import THIRDS, GapPool
from magicvideo.training.loop import TrainConfig, sha256_of, step_rng, torch_generator, train, write_json
from magicvideo.vfi.baselines import predictor
from magicvideo.vfi.discriminators import (
    PatchDiscriminator,
    TemporalDiscriminator,
    adaptive_weight,
    hinge_loss,
    judge,
)
from magicvideo.vfi.interpolator import Between, Interpolator, Predictor
from magicvideo.vfi.quality import cadence_ratio, moving_region, psnr, relative_sharpness, sharpness

logger = logging.getLogger(__name__)

GAN_START = 0.8  # share of the VQ-GAN's steps before discriminators join
GAN_WEIGHT = 0.1
SHARPNESS_WEIGHT = 0.01


def build_interpolator() -> Interpolator:
    """Return the untrained interpolator of the sprites preset (0.44 M parameters)."""
    codes = {
        "channels": 12,
        "multipliers": [1, 2, 2],
        "z_channels": 4,
        "embed_dim": 4,
        "n_embed": 256,
        "window": 3,
        "head_channels": 12,
        "norm_groups": 4,
        "head_widths": [16, 12],
        "use_residual": False,  # enlarged from a quarter of the size it could only blur
    }
    model = Interpolator(
        widths=(12, 24, 36),
        head_widths=(12, 8),
        kernel_size=3,
        flow_widths=(48, 24),
        scale=4,
        vqgan=codes,
        fine=True,
        refine=True,
    )
    assert model.generator is not None
    # About as wide as the codes are at first, so that many are used.
    nn.init.normal_(model.generator.quantize.embedding.weight, std=0.2)
    return model.eval()  # batch normalisation stays the identity it starts as: crops are no statistics


def train_vfi(
    out_dir: Path,
    steps: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    *,
    pool: GapPool,
    validation: GapPool,
    flow_steps: int = 1500,
    edsc_steps: int = 250,
    batch_size: int = 2,
    crops: tuple[int, int] = (128, 96),
    save_every: int = 100,
    monitor_every: int = 500,
    progress: bool = True,
) -> dict[str, object]:
    """Train the interpolator and leave it in ``out_dir/model``, in half precision, with its recipe beside it.

    First the coarse flow learns the true flow. Then it stays as it is, as the pretrained flow interpolator of
    the paper does, and the VQ-GAN learns the frames at 1/3 and 2/3, or at one random time and 1/3, see
    `generator_loss`. Last the EDSC network, which is an ablation, learns the same without codes and
    discriminators. All in float32: positions in bfloat16 are off by whole pixels. Interrupted runs resume.

    Args:
        out_dir: ``flow/``, ``vqgan/``, ``edsc/`` (checkpoints) and ``model/`` are written here.
        steps: optimiser steps of the VQ-GAN; discriminators join after the first 80 %.
        seed: of the weights and of all draws.
        device: where the model is trained.
        pool: training gaps.
        validation: held-out gaps; figures beside those of blend and repeat go into the recipe.
        flow_steps: optimiser steps of the coarse flow, each on twice as many gaps.
        edsc_steps: optimiser steps of the EDSC network.
        batch_size: gaps in one step; each gives two frames.
        crops: pixels per side of what the flow and what the networks are trained on; multiples of 16.
        save_every: steps between checkpoints.
        monitor_every: steps between validations on the way.

    Returns:
        The recipe: configurations, seed, loss curves, validation figures on the way and at the end, SHA-256.
    """
    torch.manual_seed(seed)
    model = build_interpolator().to(device)
    critics = build_discriminators().to(device)
    gan_from = int(GAN_START * steps)

    def batch_of(step: int, stage: int, count: int) -> GapBatch:
        return draw_batch(pool, count, crops[min(stage, 1)], step_rng(seed + stage, step)).to(device)

    def flow_of(step: int) -> Tensor:
        return flow_loss(model, batch_of(step, 0, 2 * batch_size))

    def frames_of(step: int) -> Tensor:
        joined = critics if step >= gan_from else None
        return generator_loss(model, joined, batch_of(step, 1, batch_size))

    def ablation_of(step: int) -> Tensor:
        return gap_loss(model, batch_of(step, 2, batch_size), codes=False)

    made_by = candidates(model)
    predictors = {"flow": made_by["ema"], "vqgan": made_by["combined"], "edsc": made_by["edsc"]}
    trained = {"flow": [model.flow], "vqgan": [model.generator, model.fusion, critics], "edsc": [model.edsc]}
    recipe: dict[str, object] = {
        "part": "interpolator",
        "seed": seed,
        "gaps": len(pool.frames),
        "crops": crops,
        "interpolator_config": {key: value for key, value in model.config.items() if key[0] != "_"},
    }
    for name, count, size, loss_of in (
        ("flow", flow_steps, 2 * batch_size, flow_of),
        ("vqgan", steps, batch_size, frames_of),
        ("edsc", edsc_steps, batch_size, ablation_of),
    ):
        recipe[name] = train(
            name,
            _parameters(trained[name]),
            loss_of,
            _train_config(count, size, seed, save_every),
            out_dir / name,
            monitor=_monitor(predictors[name], validation, device),
            monitor_every=monitor_every,
            progress=progress,
        )
        for module in trained[name]:
            module.requires_grad_(False)
    recipe["validation"] = {
        name: evaluate(predict, validation, device=device) for name, predict in made_by.items()
    }
    logger.info("on held-out gaps: %s", recipe["validation"])
    return _export(model, recipe, out_dir / "model")


def _monitor(predict: Predictor, validation: GapPool, device: str) -> Callable[[int], dict[str, float]]:
    return lambda _: evaluate(predict, validation, device=device)


def _train_config(steps: int, batch_size: int, seed: int, save_every: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1.5e-3,
        seed=seed,
        cooldown=0.6,
        weight_decay=1e-4,
        ema_decay=0.995,
        autocast=False,
        save_every=save_every,
    )


def _parameters(modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{index}.{name}": value
        for index, module in enumerate(modules)
        for name, value in module.named_parameters()
    }


def build_discriminators(width: int = 12) -> nn.ModuleDict:
    """Return the untrained judges of single frames and of gaps (0.20 M parameters)."""
    return nn.ModuleDict({"frame": PatchDiscriminator(3, width), "gap": TemporalDiscriminator(4, width)})


def _export(model: Interpolator, recipe: dict[str, object], folder: Path) -> dict[str, object]:
    """Write the model in half precision with its recipe, to which the weights' SHA-256 is added."""
    model.half().save_pretrained(folder)
    recipe = {**recipe, "sha256": sha256_of(folder / "diffusion_pytorch_model.safetensors")}
    write_json(folder / "recipe.json", recipe)
    return recipe


def candidates(model: Interpolator) -> dict[str, Predictor]:
    """Return the interpolator, its ablations, and what it must beat."""
    kinds: tuple[InterpolatorKind, ...] = ("combined", "ema", "edsc", "blend", "repeat")
    return {kind: predictor(kind, model) for kind in kinds}


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
        rows.append(
            [
                float(psnr(between[0], clip[0, 1:3], region).mean()),
                float(psnr(between[0], clip[0, 1:3]).mean()),
                float(cadence_ratio(made)),
                float(relative_sharpness(made)),
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


def gap_loss(model: Interpolator, batch: GapBatch, *, codes: bool = True) -> Tensor:
    """Return the reconstruction and codebook loss of a batch."""
    made = _made(model, batch, codes=codes)
    return reconstruction_loss(made.frame.unflatten(0, (-1, 2)), batch) + made.codebook_loss


def generator_loss(model: Interpolator, critics: nn.ModuleDict | None, batch: GapBatch) -> Tensor:
    """Return the loss of the VQ-GAN and, with discriminators, theirs.

    Reconstruction, codebook, and the adversarial loss at its adaptive weight. Both sides learn in one step:
    what a discriminator says to the generator has no gradient into the discriminator, and the frames that it
    learns from have none into the generator.
    """
    made = _made(model, batch)
    frames = made.frame.unflatten(0, (-1, 2))
    reconstruction = reconstruction_loss(frames, batch)
    if critics is None:
        return reconstruction + made.codebook_loss
    shown = {
        "frame": (frames.flatten(0, 1), batch.frames.flatten(0, 1)),
        "gap": (_in_order(batch, frames), _in_order(batch, batch.frames)),
    }
    adversarial = made.codebook_loss.new_zeros(())
    critic_loss = torch.zeros_like(adversarial)
    for name, (fake, real) in shown.items():
        adversarial = adversarial - judge(critics[name], fake).mean()
        critic_loss = critic_loss + hinge_loss(critics[name](real), critics[name](fake.detach()))
    assert model.generator is not None
    weight = adaptive_weight(reconstruction, adversarial, model.generator.decoder.conv_out.weight)
    return reconstruction + made.codebook_loss + GAN_WEIGHT * weight * adversarial + critic_loss


def reconstruction_loss(frames: Tensor, batch: GapBatch) -> Tensor:
    """Compare frames ``(B, 2, 3, h, w)`` with the true ones.

    Charbonnier and Laplacian pyramid (as EMA-VFI's), the cadence term, which asks the three steps inside a gap
    to have their true sizes, and the sharpness term, without which the mean of all likely frames is best.
    """
    preds, target = frames.flatten(0, 1), batch.frames.flatten(0, 1)
    return (
        charbonnier(preds, target)
        + laplacian_loss(preds, target)
        + cadence_loss(batch, frames)
        + SHARPNESS_WEIGHT * sharpness_loss(preds, target)
    )


def _made(model: Interpolator, batch: GapBatch, *, codes: bool = True) -> Between:
    first, second = (frame.repeat_interleave(2, 0) for frame in (batch.first, batch.second))
    return model.between(first, second, batch.time.flatten(), codes=codes)


def sharpness_loss(preds: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute logarithm of the ratio of the images' Laplacian variances."""
    floor = 1e-5  # an image without any detail has no ratio
    return ((sharpness(preds) + floor).log() - (sharpness(target) + floor).log()).abs().mean().float()


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
    sizes = [
        (clip[:, 1:] - clip[:, :-1]).abs().mean((2, 3, 4))
        for clip in (_in_order(batch, preds), _in_order(batch, batch.frames))
    ]
    return (sizes[0] - sizes[1]).abs().mean()


def _in_order(batch: GapBatch, frames: Tensor) -> Tensor:
    """Return clips ``(B, 4, 3, h, w)``: keyframe, the two ``frames`` by their times, keyframe."""
    order = batch.time.argsort(1)[:, :, None, None, None].expand_as(frames)
    return torch.cat([batch.first[:, None], frames.gather(1, order), batch.second[:, None]], 1)


def _blur(x: Tensor) -> Tensor:
    taps = torch.tensor([1, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])


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
