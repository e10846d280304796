"""The reference image: one picture, brought to each stage's size and encoded once for each use."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from magicvideo.config import GuidanceOn


class Reference:
    """What I2V and V2V take from the reference image: pixels, latents and the image encoder's embedding."""

    def __init__(self, image: Image.Image, processor: CLIPImageProcessor) -> None:
        """Take an RGB image of any size and the image encoder's own preprocessing."""
        self.image = image.convert("RGB")
        self.processor = processor
        self._embeds: torch.Tensor | None = None

    def latents(
        self, vae: AutoencoderTiny | AutoencoderKL, size: int, device: torch.device | None = None
    ) -> torch.Tensor:
        """Return the scaled latent ``(1, C, size / 8, size / 8)`` of the image at ``size`` pixels.

        Args:
            vae: the autoencoder.
            size: pixels of the square that the image is resized to.
            device: where to compute, if the weights are offloaded from there.
        """
        resized = self.image.resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        encoded = vae.encode(_beside(vae, pixels, device))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents * vae.config["scaling_factor"]

    def embeds(
        self,
        image_encoder: CLIPVisionModelWithProjection,
        guided: GuidanceOn | None,
        device: torch.device | None = None,
    ) -> list[torch.Tensor]:
        """Return the embedding as diffusers' pipelines take it: ``[(1 or 2, 1, D)]``.

        Args:
            image_encoder: the appearance encoder.
            guided: what classifier-free guidance is on. With ``text and image`` its other branch, the first row, gets
                zeros, with ``text`` the embedding itself; without guidance there is one row.
            device: where to compute, if the weights are offloaded from there.
        """
        if self._embeds is None:
            pixels = self.processor(images=self.image, return_tensors="pt").pixel_values
            self._embeds = image_encoder(_beside(image_encoder, pixels, device)).image_embeds[:, None]
        return [branches(torch.zeros_like(self._embeds), self._embeds, guided)]


def branches(without: torch.Tensor, embeds: torch.Tensor, guided: GuidanceOn | None) -> torch.Tensor:
    """Return the rows of a reference's embedding for the branches of classifier-free guidance."""
    if guided is None:
        return embeds
    return torch.cat([without if guided == "text and image" else embeds, embeds])


class SharedConditionEmbedding(ControlNetConditioningEmbedding):
    """A ControlNet's embedding of its condition, the same to the bit for one image as for a batch of copies.

    Convolutions of a single image take another path on a CPU, with other rounding; two rows take that of many.
    """

    def forward(self, conditioning):  # type: ignore[no-untyped-def]
        """Return ``(B, C, h, w)`` for ``(B, 3, H, W)``."""
        if len(conditioning) > 1:
            return super().forward(conditioning)
        return super().forward(conditioning.repeat(2, 1, 1, 1))[:1]


def control_condition(
    pipe: Any,
    frames: list[Any],
    *,
    height: int,
    width: int,
    batch_size: int,
    guided: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Prepare the ControlNet's condition, once if all frames of the video have the same image.

    Where diffusers repeats the image for every frame and branch, one row is broadcast by the ControlNet after its
    embedding: bit-identical, and 1/32 of the work at 32 frames with guidance. Several prompts share the condition
    (diffusers fails on them).

    Args:
        pipe: the diffusers pipeline.
        frames: an image a frame; the very same object for all frames is one reference.
        height: of the condition in pixels.
        width: of the condition in pixels.
        batch_size: videos times frames.
        guided: whether the ControlNet sees both branches of classifier-free guidance.
        device: of the condition.
        dtype: of the condition.

    Returns:
        ``(1, 3, height, width)`` in [0, 1], or a row for each frame of each video and branch.
    """
    for module in pipe.controlnet.modules():
        if isinstance(module, ControlNetConditioningEmbedding):
            module.__class__ = SharedConditionEmbedding  # another forward over the same weights and names
    shared = all(frame is frames[0] for frame in frames)
    video = pipe.control_video_processor.preprocess_video(
        frames[:1] if shared else frames, height=height, width=width
    )
    rows = video.transpose(1, 2).flatten(0, 1).to(device=device, dtype=dtype)
    return rows if len(rows) == 1 else rows.repeat(batch_size // len(rows) * (1 + guided), 1, 1, 1)


def _beside(model: torch.nn.Module, pixels: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    weight = next(model.parameters())
    return pixels.to(device or weight.device, weight.dtype)
