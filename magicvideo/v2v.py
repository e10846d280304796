"""Video to video: bring the keyframes to high resolution and refine them, guided by the same reference."""

from typing import Any

import torch
from diffusers import AnimateDiffVideoToVideoControlNetPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from magicvideo.config import GuidanceOn
from magicvideo.errors import MagicVideoError
from magicvideo.execution import Guidance
from magicvideo.i2v import control_arguments, guided
from magicvideo.reference import Reference, control_condition


class MagicVideoV2V(AnimateDiffVideoToVideoControlNetPipeline):
    """Refine keyframes at high resolution; the loop is diffusers' own, the reference is embedded once."""

    def prepare_conditioning_frames(  # type: ignore[no-untyped-def]
        self,
        video,
        width,
        height,
        batch_size,
        num_videos_per_prompt,
        device,
        dtype,
        do_classifier_free_guidance=False,
        guess_mode=False,
    ):
        """Return the ControlNet condition: ``(1, 3, H, W)`` if all frames share an image."""
        return control_condition(
            self,
            video,
            height=height,
            width=width,
            batch_size=batch_size,
            guided=do_classifier_free_guidance and not guess_mode,
            device=device,
            dtype=dtype,
        )

    def encode_video(self, video, generator, decode_chunk_size=16):  # type: ignore[no-untyped-def]
        """Encode ``(T, 3, H, W)`` in chunks, then draw the latents at once: the chunk size changes no noise."""
        encoded = [self.vae.encode(chunk) for chunk in video.split(decode_chunk_size)]
        if hasattr(encoded[0], "latents"):
            return torch.cat([chunk.latents for chunk in encoded])
        moments = torch.cat([chunk.latent_dist.parameters for chunk in encoded])
        return DiagonalGaussianDistribution(moments).sample(generator)

    @torch.no_grad()
    def refine(
        self,
        prompt: str,
        keyframes: torch.Tensor,
        reference: Reference,
        *,
        size: int,
        strength: float,
        num_inference_steps: int,
        guidance_scale: float,
        generator: torch.Generator,
        negative_prompt: str = "",
        controlnet_scale: float = 1.0,
        control_guidance_end: float = 1.0,
        decode_chunk_size: int = 4,
        guidance: Guidance = "batched",
        guidance_on: GuidanceOn = "text and image",
    ) -> torch.Tensor:
        """Return ``keyframes`` ``(T, 3, S, S)`` in [0, 1] refined at ``(T, 3, size, size)``.

        Args:
            prompt: what the video shows.
            keyframes: the video to refine.
            reference: the image it started from.
            size: pixels of the height and width to refine at.
            strength: share of the denoising steps that run, from noise of that level.
            num_inference_steps: denoising steps at strength 1.
            guidance_scale: of classifier-free guidance; 1 is none.
            generator: of the noise, on the CPU.
            negative_prompt: what the video does not show.
            controlnet_scale: weight of the ControlNet.
            control_guidance_end: share of the steps after which the ControlNet is silent.
            decode_chunk_size: frames encoded or decoded at once.
            guidance: both branches in one batch, or one after the other in half the memory.
            guidance_on: what guidance strengthens; see ``I2VConfig``.

        Raises:
            MagicVideoError: ``strength`` leaves no denoising step (diffusers would return an empty video).
        """
        check_strength(strength, num_inference_steps)
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "video": resize_frames(keyframes, size),
            "height": size,
            "width": size,
            "strength": strength,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "generator": generator,
            "ip_adapter_image_embeds": reference.embeds(
                self.image_encoder, guidance_on if guidance_scale > 1 else None, self._execution_device
            ),
            "conditioning_frames": [reference.image] * len(keyframes),
            **control_arguments(controlnet_scale, control_guidance_end),
            "decode_chunk_size": decode_chunk_size,
            "output_type": "pt",
        }
        with guided(self, guidance, guidance_scale):
            return self(**arguments).frames[0]


def check_strength(strength: float, num_inference_steps: int) -> None:
    """Refuse a strength that rounds to zero denoising steps.

    Raises:
        MagicVideoError: naming the smallest strength that works.
    """
    if not 0 < strength <= 1 or int(num_inference_steps * strength) < 1:
        raise MagicVideoError(
            f"V2V strength {strength} of {num_inference_steps} steps leaves no denoising step; give a strength "
            f"of at least {1 / num_inference_steps:.3g} and at most 1, or switch V2V off"
        )


def resize_frames(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Resize ``(T, 3, H, W)`` in [0, 1] to ``size`` pixels by antialiased bicubic interpolation."""
    resized = torch.nn.functional.interpolate(
        frames, size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)
