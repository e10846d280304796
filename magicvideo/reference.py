"""The reference image: one picture, brought to each stage's size and encoded once for each use."""

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection


class Reference:
    """What I2V and V2V take from the reference image: pixels, latents and the image encoder's embedding."""

    def __init__(self, image: Image.Image, processor: CLIPImageProcessor) -> None:
        """Take an RGB image of any size and the image encoder's own preprocessing."""
        self.image = image.convert("RGB")
        self.processor = processor
        self._embeds: torch.Tensor | None = None

    def latents(self, vae: AutoencoderTiny | AutoencoderKL, size: int) -> torch.Tensor:
        """Return the scaled latent ``(1, C, size / 8, size / 8)`` of the image at ``size`` pixels."""
        resized = self.image.resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        weight = next(vae.parameters())
        encoded = vae.encode(pixels.to(weight.device, weight.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents * vae.config["scaling_factor"]

    def embeds(self, image_encoder: CLIPVisionModelWithProjection, guided: bool) -> list[torch.Tensor]:
        """Return the embedding as diffusers' pipelines take it: ``[(1 or 2, 1, D)]``, zeros first if ``guided``."""
        if self._embeds is None:
            weight = next(image_encoder.parameters())
            pixels = self.processor(images=self.image, return_tensors="pt").pixel_values
            self._embeds = image_encoder(pixels.to(weight.device, weight.dtype)).image_embeds[:, None]
        embeds = self._embeds
        return [torch.cat([torch.zeros_like(embeds), embeds]) if guided else embeds]
