"""Diffusion training for the sprites preset: one velocity loss, one batch maker per stage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from magicvideo.backbone import frame_positions, motion_parameters
from magicvideo.noise_prior import lean_noise
from magicvideo.training.data import to_model
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train
from magicvideo.training.speed import compiled
from magicvideo.v2v import resize_frames

TEXT_DROP = 0.1
# Objects cover a tenth of a frame and their colour is decided at high noise: with an even loss a model learns the
# background's word alone (after 1,000 steps a wrong colour word still changed the loss by less than 0.5 %).
OBJECT_WEIGHT = 8.0
HIGH_NOISE, HIGH_NOISE_SHARE = 550, 0.6
# An image's shapes are decided between these noise levels: a denoiser that saw few of them lost the shape of a true
# frame noised to 200 in every fifth case, while colour and place, which high noise decides, were learned long before.
MIDDLE_NOISE, MIDDLE_NOISE_SHARE = (60, 650), 0.65
TERMINAL = 990  # image batches see pure noise from this timestep on: sampling starts from pure noise


@dataclass(frozen=True)
class LatentPool:
    """Encoded frames with captions.

    Attributes:
        latents: ``(N, 4, h, w)`` float16.
        tokens: ``(N, L)`` token ids.
        objects: ``(N, 1, h, w)`` float16, the share of each latent pixel that objects cover.
        rows: indices of the frames to draw from, all by default; one that stands there twice is seen twice as often.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    objects: torch.Tensor
    rows: torch.Tensor | None = None


@torch.no_grad()
def encode_frames(vae: AutoencoderTiny, frames: torch.Tensor) -> torch.Tensor:
    """Encode ``(N, 3, S, S)`` uint8 to float16 latents, one at a time: thin convolutions live in the cache."""
    parts, device = [], vae.device
    with torch.autocast(device.type, torch.bfloat16):
        for image in frames:
            pixels = to_model(image[None]).to(device, memory_format=torch.channels_last)
            parts.append(vae.encode(pixels).latents.half())
    return torch.cat(parts).contiguous().cpu()


@torch.no_grad()
def degrade(
    vae: AutoencoderTiny, frames: torch.Tensor, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Make of low-resolution frames what V2V gets to see: through noisy latents, then resized.

    Args:
        frames: ``(T, 3, s, s)`` uint8.
        size: side of the result.

    Returns:
        ``(T, 3, size, size)`` uint8.
    """
    latents = encode_frames(vae, frames).float()
    spread = 0.3 * float(torch.rand((), generator=generator))
    latents = latents + spread * torch.randn(latents.shape, generator=generator)
    decoded, device = [], vae.device
    with torch.autocast(device.type, torch.bfloat16):
        for latent in latents:
            image = latent[None].to(device, memory_format=torch.channels_last)
            decoded.append(vae.decode(image).sample.float().cpu() / 2 + 0.5)
    return (resize_frames(torch.cat(decoded), size) * 255).round().to(torch.uint8)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Return token ids ``(N, L)``, padded and cut to the tokenizer's length."""
    return tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noised latents and the velocity to predict (Salimans and Ho 2022, section 4).

    Args:
        latents: ``(B, ...)`` clean latents.
        noise: the same shape, standard normal.
        alphas_cumprod: ``(B,)`` cumulative product of alphas at each sample's timestep.
    """
    shape = (-1, *[1] * (latents.dim() - 1))
    signal, spread = alphas_cumprod.sqrt().view(shape), (1 - alphas_cumprod).sqrt().view(shape)
    return signal * latents + spread * noise, signal * noise - spread * latents


def drop_text(tokens: torch.Tensor, empty: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Replace a share of prompts by the empty one, for classifier-free guidance."""
    dropped = torch.rand(len(tokens), generator=generator) < TEXT_DROP
    return torch.where(dropped[:, None], empty, tokens)


def draw_timesteps(
    count: int, total: int, often: tuple[int, int], share: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw timesteps ``(count,)``, a ``share`` of them from the range ``often``, the rest from all ``total``."""
    chosen = torch.rand(count, generator=generator) < share
    draw = torch.rand(count, generator=generator)
    low, high = torch.where(chosen, often[0], 0), torch.where(chosen, often[1], total)
    return (low + draw * (high - low)).long()


def image_alphas(scheduler: DDIMScheduler) -> torch.Tensor:
    """Return the cumulative alphas of image batches: zero from ``TERMINAL`` on."""
    alphas = scheduler.alphas_cumprod.clone()
    alphas[TERMINAL:] = 0
    return alphas


class ImageBatches:
    """The text-to-image loss over latent pools of several sizes, one size a step."""

    def __init__(
        self,
        pools: Sequence[tuple[LatentPool, int, float]],
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        seed: int,
        *,
        compile_unet: bool = False,
    ) -> None:
        """Take ``pools`` as (pool, batch size, share of the steps); ``compile_unet`` pays in long runs alone."""
        self.pools, self.unet, self.text_encoder, self.seed = pools, unet, text_encoder, seed
        self.predict = compiled(unet) if compile_unet else unet
        self.empty = tokenize(tokenizer, [""])
        self.alphas = image_alphas(scheduler)

    def loss(self, step: int) -> torch.Tensor:
        """Return the velocity error of one batch, a function of ``(seed, step)`` alone."""
        rng = step_rng(self.seed, step)
        generator = torch_generator(rng)
        shares = np.array([share for *_, share in self.pools])
        pool, batch, _ = self.pools[int(rng.choice(len(shares), p=shares / shares.sum()))]
        which = draw_rows(pool, batch, generator)
        latents = pool.latents[which].float()
        timesteps = draw_timesteps(batch, len(self.alphas), MIDDLE_NOISE, MIDDLE_NOISE_SHARE, generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy, velocity = add_noise(latents, noise, self.alphas[timesteps])
        tokens = drop_text(pool.tokens[which], self.empty, generator)
        device = self.unet.device
        states = self.text_encoder(tokens.to(device)).last_hidden_state
        noisy = noisy.to(device, memory_format=torch.channels_last)
        predicted = self.predict(noisy, timesteps.to(device), states).sample
        weight = (1 + OBJECT_WEIGHT * pool.objects[which].float()).to(device)
        return (weight * (predicted.float() - velocity.to(device)) ** 2).mean()


def train_text_to_image(batches: ImageBatches, config: TrainConfig, out_dir: Path) -> dict[str, object]:
    """Train the backbone and the text encoder together."""
    parameters = {f"unet.{key}": value for key, value in batches.unet.named_parameters()}
    parameters |= {f"text.{key}": value for key, value in batches.text_encoder.named_parameters()}
    return train("text-to-image", parameters, batches.loss, config, out_dir)


def train_image_layers(
    batches: ImageBatches, config: TrainConfig, out_dir: Path, *, keep: str
) -> dict[str, object]:
    """Train the backbone alone, without the layers that have ``keep`` in their name."""
    parameters = {f"unet.{key}": value for key, value in batches.unet.named_parameters() if keep not in key}
    return train("image layers", parameters, batches.loss, config, out_dir)


@dataclass(frozen=True)
class VideoPool:
    """Encoded clips with what conditions them.

    Attributes:
        latents: ``(N, T, 4, h, w)`` float16, the clips to learn.
        tokens: ``(N, L)`` token ids.
        references: ``(N, 3, S, S)`` uint8, each clip's reference image in pixels.
        objects: ``(N, T, 1, h, w)`` float16, the share of each latent pixel that objects cover.
        positions: ``(N, T)`` where in the clip of ``NUM_FRAMES`` each of the ``T`` stored frames stands.
        start: ``(N, T, 4, h, w)`` float16 latents that noise is added to where they differ from ``latents``
            (V2V: the low-resolution clip brought to size), else None.
        rows: indices of the clips to draw from, as in ``LatentPool``.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    references: torch.Tensor
    objects: torch.Tensor
    positions: torch.Tensor
    start: torch.Tensor | None = None
    rows: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class VideoParts:
    """The modules of an I2V or V2V stage during training; both backbones share their spatial layers."""

    unet: UNetMotionModel
    image_unet: UNet2DConditionModel
    controlnet: ControlNetModel
    image_encoder: CLIPVisionModelWithProjection
    text_encoder: CLIPTextModel


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the video loss is conditioned on, beside the appearance encoder.

    Attributes:
        control_drop: share of the batches that do without ControlNet.
        noise_lean: weight in the noise of the latent of the clip's first frame, which is its reference image; see
            ``lean_noise``.
    """

    control_drop: float = 0.05
    noise_lean: float = 0.0


def draw_rows(pool: LatentPool | VideoPool, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the indices ``(count,)`` of a batch from a pool's rows, or from all it has."""
    rows = torch.arange(len(pool.latents)) if pool.rows is None else pool.rows
    return rows[torch.randint(len(rows), (count,), generator=generator)]


class VideoBatches:
    """The video loss: a few frames of a few clips at their true positions, or whole clips."""

    def __init__(
        self,
        pool: VideoPool,
        parts: VideoParts,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        *,
        seed: int,
        clips: int,
        frames: int,
        timesteps: tuple[int, int] = (0, 1000),
        shared_noise: float = 0.0,
        conditions: Conditions | None = None,
    ) -> None:
        """Draw ``clips`` clips a step and ``frames`` frames of each.

        Noise is drawn between the two ``timesteps``; ``shared_noise`` is the share of its variance that all
        frames of a clip have in common (see the prior ``mixed``).
        """
        self.shared_noise, self.conditions = shared_noise, conditions or Conditions()
        self.pool, self.parts, self.seed = pool, parts, seed
        self.clips, self.frames, self.timesteps = clips, frames, timesteps
        self.empty = tokenize(tokenizer, [""])
        self.alphas = scheduler.alphas_cumprod

    def loss(self, step: int) -> torch.Tensor:
        """Return the error of one batch, a function of ``(seed, step)`` alone."""
        generator = torch_generator(step_rng(self.seed, step))
        which = draw_rows(self.pool, self.clips, generator)
        indices = self._frame_indices(generator)
        clean = self._frames(self.pool.latents, which, indices)
        start = clean if self.pool.start is None else self._frames(self.pool.start, which, indices)
        timesteps = self._timesteps(generator)
        noise = torch.randn(clean.shape, generator=generator)
        if self.shared_noise:
            common = torch.randn(clean[:, :, :1].shape, generator=generator)
            noise = self.shared_noise**0.5 * common + (1 - self.shared_noise) ** 0.5 * noise
        first = self._frames(self.pool.latents, which, torch.zeros(1, dtype=torch.long))
        noise = lean_noise(noise, first, self.conditions.noise_lean)
        alphas = self.alphas[timesteps]
        noisy, velocity = add_noise(start, noise, alphas)
        device = self.parts.unet.device
        predicted = self._predict(noisy.to(device), timesteps.to(device), which, indices, generator)
        if self.pool.start is None:
            error = predicted - velocity.to(device)
        else:
            signal, spread = alphas.sqrt().view(-1, 1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1, 1)
            error = (signal * noisy - clean).to(device) - spread.to(device) * predicted
        weight = 1 + OBJECT_WEIGHT * self._frames(self.pool.objects, which, indices)
        return (weight.to(device) * error**2).mean()

    def _timesteps(self, generator: torch.Generator) -> torch.Tensor:
        low, high = self.timesteps
        share = HIGH_NOISE_SHARE if high > HIGH_NOISE else 0.0
        return low + draw_timesteps(self.clips, high - low, (HIGH_NOISE, high - low), share, generator)

    def _frame_indices(self, generator: torch.Generator) -> torch.Tensor:
        """Draw one frame of each of ``frames`` equal stretches of the clip."""
        stretch = self.pool.latents.shape[1] // self.frames
        return torch.arange(self.frames) * stretch + torch.randint(
            stretch, (self.frames,), generator=generator
        )

    @staticmethod
    def _frames(latents: torch.Tensor, which: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return latents[which][:, indices].float().transpose(1, 2)

    def _predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        which: torch.Tensor,
        indices: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        chance, device = torch.rand(3, generator=generator), noisy.device
        tokens = self.pool.tokens[which]
        if chance[0] < 0.15:
            tokens = self.empty.expand_as(tokens)
        pixels = self.pool.references[which].to(device)
        embeds = self.parts.image_encoder(preprocess_reference(pixels)).image_embeds
        if chance[0] < 0.1 or chance[1] < 0.05:
            embeds = torch.zeros_like(embeds)
        states = self.parts.text_encoder(tokens.to(device)).last_hidden_state
        states = states.repeat_interleave(self.frames, 0)
        flat = noisy.transpose(1, 2).flatten(0, 1)
        with embedded_once(self.parts.controlnet, self.frames):
            down, mid = self.parts.controlnet(
                flat,
                timesteps.repeat_interleave(self.frames),
                states,
                controlnet_cond=pixels.float() / 255,
                conditioning_scale=0.0 if chance[2] < self.conditions.control_drop else 1.0,
                return_dict=False,
            )
        with frame_positions(self.parts.unet, self.pool.positions[which][:, indices]):
            return self.parts.unet(
                noisy,
                timesteps,
                states,
                added_cond_kwargs={"image_embeds": [embeds.unsqueeze(1)]},
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample.float()


@contextmanager
def embedded_once(controlnet: ControlNetModel, frames: int) -> Iterator[None]:
    """Embed the condition once a clip and give every frame the same embedding."""
    hook = controlnet.controlnet_cond_embedding.register_forward_hook(
        lambda module, inputs, output: output.repeat_interleave(frames, 0)
    )
    try:
        yield
    finally:
        hook.remove()


def preprocess_reference(pixels: torch.Tensor) -> torch.Tensor:
    """Bring reference images ``(B, 3, S, S)`` uint8 to the image encoder's 64 px and [-1, 1]."""
    small = torch.nn.functional.interpolate(
        pixels.float(), size=(64, 64), mode="bicubic", antialias=True, align_corners=False
    )
    return small.clamp(0, 255) / 127.5 - 1


def train_image_to_video(
    videos: VideoBatches, images: ImageBatches, config: TrainConfig, out_dir: Path, *, cycle: str
) -> dict[str, object]:
    """Train I2V jointly on videos and images, in the order of ``cycle``: "VVI" is an image batch every third step.

    Images take the backbone without its motion modules (our reading of "images treated as single-frame videos":
    attention over one frame teaches a motion module nothing about motion), so the spatial layers stay an image
    model while they learn to be a video model's.
    """

    def loss_of(step: int) -> torch.Tensor:
        return (images if cycle[step % len(cycle)] == "I" else videos).loss(step)

    return train("image-to-video", video_parameters(videos.parts), loss_of, config, out_dir)


def train_own_layers(videos: VideoBatches, config: TrainConfig, out_dir: Path) -> dict[str, object]:
    """Train what I2V has beside the image model: motion modules, appearance encoder and ControlNet."""
    shared = {
        id(value)
        for part in (videos.parts.image_unet, videos.parts.text_encoder)
        for value in part.parameters()
    }
    own = {key: value for key, value in video_parameters(videos.parts).items() if id(value) not in shared}
    return train("image-to-video, own layers", own, videos.loss, config, out_dir)


def video_parameters(parts: VideoParts) -> dict[str, torch.nn.Parameter]:
    """Return all parameters of I2V by name."""
    parameters = {f"unet.{key}": value for key, value in parts.unet.named_parameters()}
    parameters |= {f"controlnet.{key}": value for key, value in parts.controlnet.named_parameters()}
    parameters |= {f"image_encoder.{key}": value for key, value in parts.image_encoder.named_parameters()}
    return parameters | {f"text.{key}": value for key, value in parts.text_encoder.named_parameters()}


def train_video_to_video(videos: VideoBatches, config: TrainConfig, out_dir: Path) -> dict[str, object]:
    """Train the motion modules of V2V alone, on high-resolution clips noised from their degraded copies."""
    return train("video-to-video", motion_parameters(videos.parts.unet), videos.loss, config, out_dir)
