"""The latent noise prior: I2V starts from noise whose mean leans towards the reference image's latent.

The paper: "frames are initialized from standard Gaussian noise whose means have shifted from zeros towards the
value of reference image latent"; it gives no coefficient.
"""

from typing import get_args

import torch

from magicvideo.config import PriorKind

MIXED_SHARE = 0.5


def noise_prior(
    reference: torch.Tensor, noise: torch.Tensor, kind: PriorKind, *, strength: float
) -> torch.Tensor:
    """Lean ``noise`` towards the reference latent.

    Args:
        reference: ``(B, C, h, w)`` latent of the reference image.
        noise: ``(B, C, F, h, w)`` standard normal; the same for every kind, so that arms can be compared.
        kind: ``none`` returns the noise; ``shift`` adds ``strength`` times the reference (unit variance);
            ``matched`` is forward diffusion, ``strength * reference + sqrt(1 - strength^2) * noise``, exactly
            the model's own input where ``strength`` is the square root of the first timestep's cumulative
            alpha; ``decay`` is ``matched`` with a strength that falls linearly to zero over the frames;
            ``mixed`` is ``matched`` on noise of which the frames share half the variance (PYoCo, Ge et al.
            2023, alpha = 1).
        strength: in [0, 1].

    Returns:
        ``(B, C, F, h, w)`` initial latents in the space of a variance-preserving scheduler.

    Raises:
        ValueError: an unknown kind, a strength outside [0, 1], or shapes that do not fit.
    """
    if kind not in get_args(PriorKind):
        raise ValueError(f"unknown noise prior {kind!r}; known: {', '.join(get_args(PriorKind))}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength of the noise prior must be in [0, 1], got {strength}")
    batch, channels, frames, height, width = noise.shape
    if reference.shape != (batch, channels, height, width):
        raise ValueError(
            f"reference must be {(batch, channels, height, width)}, got {tuple(reference.shape)}"
        )
    if kind == "none":
        return noise
    lean = reference.unsqueeze(2)
    if kind == "shift":
        return noise + strength * lean
    if kind == "mixed":
        noise = mix_noise(noise, MIXED_SHARE)
    weight = torch.full((frames,), strength, dtype=noise.dtype, device=noise.device)
    if kind == "decay":
        weight = weight * torch.linspace(1, 0, frames, dtype=noise.dtype, device=noise.device)
    weight = weight.view(1, 1, frames, 1, 1)
    return weight * lean + (1 - weight**2).sqrt() * noise


def mix_noise(noise: torch.Tensor, share: float) -> torch.Tensor:
    """Give all frames a common part without drawing anew: standard normal again, correlated between frames.

    The mean over the frames and the deviations from it are independent; scaled to unit variance they are the
    common and the own part. A single frame keeps its noise.

    Args:
        noise: ``(B, C, F, h, w)`` standard normal, independent.
        share: of the variance, that the frames have in common.
    """
    frames = noise.shape[2]
    if frames == 1:
        return noise
    mean = noise.mean(2, keepdim=True)
    common = mean * frames**0.5
    own = (noise - mean) * (frames / (frames - 1)) ** 0.5
    return share**0.5 * common + (1 - share) ** 0.5 * own
