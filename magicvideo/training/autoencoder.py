"""Train the sprites autoencoder: f8, four latent channels, no normalisation layers."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from magicvideo.training.data import FramePool, to_model
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train

LATENT_NOISE = 0.1  # of the latents' own deviation: what keeps the latent space smooth for a denoiser
# What the decoder alone is then fitted with, as a denoiser leaves it: little grain, whole regions a little off (a
# meadow's dark green lies beside purple), and guidance that draws a frame away from its mean.
DECODER_NOISE, DECODER_DRIFT, DECODER_STRETCH = 0.04, 0.15, 0.15


def build_autoencoder() -> AutoencoderTiny:
    """Return an untrained ``AutoencoderTiny`` (0.34 M parameters)."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(1, 1, 1, 2),
        num_decoder_blocks=(2, 1, 1, 1),
        latent_channels=4,
        scaling_factor=1.0,
        force_upcast=False,
    )


def train_autoencoder(
    vae: AutoencoderTiny,
    pool: FramePool,
    config: TrainConfig,
    out_dir: Path,
    *,
    crop: int = 96,
    decoder_only: bool = False,
) -> dict[str, object]:
    """Train on random crops: L1 + L2, latent noise, latents drawn to unit deviation per channel.

    With ``decoder_only`` the encoder stays as it is, and with it everything trained on its latents.
    """

    def loss_of(step: int) -> torch.Tensor:
        rng = step_rng(config.seed, step)
        generator = torch_generator(rng)
        images = random_crops(pool.frames, config.batch_size, crop, generator).to(vae.device)
        with torch.set_grad_enabled(not decoder_only):
            latents = vae.encode(images).latents.float()
        spread = latents.std((0, 2, 3))
        unit = spread.detach().view(1, -1, 1, 1)
        noise = LATENT_NOISE * torch.randn(latents.shape, generator=generator).to(vae.device)
        seen = as_denoised(latents, unit, generator) if decoder_only else latents + unit * noise
        decoded = vae.decode(seen).sample.float()
        shape = (latents.mean((0, 2, 3)) ** 2 + (spread - 1) ** 2).mean()
        reconstruction = functional.l1_loss(decoded, images) + functional.mse_loss(decoded, images)
        return reconstruction + 0.01 * shape

    def validate() -> dict[str, float]:
        images = to_model(pool.frames[:64]).to(vae.device)
        decoded = vae.decode(vae.encode(images).latents).sample.clamp(-1, 1)
        error = ((decoded - images) ** 2).mean((1, 2, 3)) / 4
        return {"psnr_db": round(float((-10 * error.log10()).mean()), 2)}

    part = vae.decoder if decoder_only else vae
    return train("autoencoder", dict(part.named_parameters()), loss_of, config, out_dir, validate=validate)


def as_denoised(latents: torch.Tensor, unit: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Disturb latents ``(B, C, h, w)``, in channels' deviations ``unit`` ``(1, C, 1, 1)``, as a denoiser does."""
    count, channels, height, width = latents.shape
    stretch = 1 + DECODER_STRETCH * torch.rand((count, 1, 1, 1), generator=generator).to(latents.device)
    mean = latents.mean((2, 3), keepdim=True)
    grain = DECODER_NOISE * torch.randn(latents.shape, generator=generator)
    drift = DECODER_DRIFT * torch.randn((count, channels, 3, 3), generator=generator)
    drift = functional.interpolate(drift, (height, width), mode="bicubic")
    return mean + stretch * (latents - mean) + unit * (grain + drift).to(latents.device)


def random_crops(frames: torch.Tensor, count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw ``count`` square crops ``(count, 3, size, size)`` in [-1, 1]."""
    which = torch.randint(len(frames), (count,), generator=generator)
    room = frames.shape[-1] - size + 1
    corners = torch.randint(room, (count, 2), generator=generator)
    crops = [
        frames[i, :, y : y + size, x : x + size]
        for i, (y, x) in zip(which.tolist(), corners.tolist(), strict=True)
    ]
    return to_model(torch.stack(crops)).contiguous(memory_format=torch.channels_last)
