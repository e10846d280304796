"""The latent noise prior: I2V starts from noise whose mean leans towards the reference image's latent.

The paper: "frames are initialized from standard Gaussian noise whose means have shifted from zeros towards the
value of reference image latent"; it gives no coefficient.
"""

from typing import Any, get_args

import torch

from magicvideo.config import PriorKind

MIXED_SHARE = 0.5
FRAMEINIT_LEVEL = 0.85  # of the training timesteps, as in ConsistI2V's published configuration
STOP_FREQUENCY = 0.25  # of FrameInit's low-pass filter, in space and in time; ditto


def initial_latents(
    reference: torch.Tensor,
    noise: torch.Tensor,
    kind: PriorKind,
    scheduler: Any,
    *,
    strength: float | None = None,
) -> torch.Tensor:
    """Return the prior as diffusers' pipelines take it in ``latents=``, whatever the scheduler's space.

    Pipelines multiply ``latents`` by ``scheduler.init_noise_sigma``. That is 1 where latents are the model's own
    input (DDIM, DPM-Solver), and about the first sigma where they are ``x + sigma * noise`` (Euler, Heun, KDPM2).

    Args:
        reference: ``(B, C, h, w)`` latent of the reference image.
        noise: ``(B, C, F, h, w)`` standard normal.
        kind: see ``noise_prior``; ``none`` is the noise itself, as diffusers starts.
        scheduler: a diffusers scheduler after ``set_timesteps``.
        strength: None is the signal's share at the scheduler's first timestep (``frameinit``: at 85 % of its
            training timesteps), so that ``matched`` is ``scheduler.add_noise`` of the reference.

    Returns:
        ``(B, C, F, h, w)`` in the dtype of ``noise``.
    """
    if kind == "none":
        return noise
    if strength is None:
        strength = _frameinit_signal(scheduler) if kind == "frameinit" else first_signal(scheduler)
    latents = noise_prior(reference, noise, kind, strength=strength)
    if scheduler.init_noise_sigma == 1:
        return latents
    return latents * (1 / (first_signal(scheduler) * float(scheduler.init_noise_sigma)))


def first_signal(scheduler: Any) -> float:
    """Return the root of the cumulative alpha at the scheduler's first timestep, after ``set_timesteps``."""
    if scheduler.init_noise_sigma == 1:
        return float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])] ** 0.5)
    return float(1 / (1 + scheduler.sigmas[0].double() ** 2) ** 0.5)


def _frameinit_signal(scheduler: Any) -> float:
    return float(scheduler.alphas_cumprod[int(FRAMEINIT_LEVEL * len(scheduler.alphas_cumprod))] ** 0.5)


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
            2023, alpha = 1); ``frameinit`` takes the low frequencies in space and time from ``matched`` and
            the high ones from the noise (ConsistI2V, Ren et al. 2024, section 3.3).
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
    matched = weight * lean + (1 - weight**2).sqrt() * noise
    return mix_frequencies(matched, noise) if kind == "frameinit" else matched


def noise_lean(strength: float | None, alphas_cumprod: torch.Tensor) -> float:
    """Return the weight of the reference latent in the noise of training that suits a strength of sampling.

    At the last timestep the model's input has ``strength`` of the reference where the schedule leaves ``a`` of the
    signal and the noise, ``sqrt(1 - a^2)`` of the input, has this weight of it.

    Args:
        strength: of the prior; None, or less than the schedule's own share, is no lean.
        alphas_cumprod: ``(N,)`` of the training timesteps.
    """
    signal = float(alphas_cumprod[-1] ** 0.5)
    return max(0.0, ((strength or 0.0) - signal) / (1 - signal**2) ** 0.5)


def lean_noise(noise: torch.Tensor, reference: torch.Tensor, weight: float) -> torch.Tensor:
    """Return noise whose mean is ``weight`` times the reference latent, at about the same variance.

    What denoises it is to predict noise with that mean (a prior that depends on the data: Lee et al. 2022, PriorGrad).

    Args:
        noise: ``(B, C, F, h, w)`` standard normal.
        reference: ``(B, C, 1, h, w)``.
        weight: in [0, 1].
    """
    return weight * reference + (1 - weight**2) ** 0.5 * noise


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


def mix_frequencies(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return the low frequencies of ``low`` and the high ones of ``high``, both ``(B, C, F, h, w)``."""
    axes = (-3, -2, -1)
    dtype = torch.promote_types(high.dtype, torch.float32)  # there is no half-precision FFT on a CPU
    weight = torch.fft.ifftshift(low_pass_filter(*high.shape[-3:])).to(high.device, dtype)
    difference = torch.fft.fftn((low - high).to(dtype), dim=axes)
    return (high + torch.fft.ifftn(difference * weight, dim=axes).real).to(high.dtype)


def low_pass_filter(frames: int, height: int, width: int) -> torch.Tensor:
    """Return FreeInit's Gaussian low-pass filter ``(F, h, w)`` in [0, 1], frequency zero in the middle."""
    time, rows, columns = (
        (2 * torch.arange(n, dtype=torch.float64) / n - 1) ** 2 for n in (frames, height, width)
    )
    squared_distance = time[:, None, None] + rows[:, None] + columns
    return torch.exp(-squared_distance / (2 * STOP_FREQUENCY**2))
