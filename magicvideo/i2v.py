"""Image to video: AnimateDiff's ControlNet pipeline of diffusers, with the reference at batch 1 and a noise prior."""

from contextlib import nullcontext
from typing import Any

import torch
from diffusers import AnimateDiffControlNetPipeline

from magicvideo.config import GuidanceOn, PriorKind
from magicvideo.execution import Guidance, sequential_guidance
from magicvideo.noise_prior import initial_latents
from magicvideo.reference import Reference, control_condition


class MagicVideoI2V(AnimateDiffControlNetPipeline):
    """Animate a reference image into low-resolution keyframes.

    The denoising loop is diffusers' own. Only the preparation of the ControlNet condition differs: see
    ``control_condition``.
    """

    def prepare_video(  # type: ignore[no-untyped-def]
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

    @torch.no_grad()
    def animate(
        self,
        prompt: str,
        reference: Reference,
        *,
        num_frames: int,
        size: int,
        num_inference_steps: int,
        guidance_scale: float,
        prior: PriorKind,
        generator: torch.Generator,
        prior_strength: float | None = None,
        negative_prompt: str = "",
        controlnet_scale: float = 1.0,
        control_guidance_end: float = 1.0,
        decode_chunk_size: int = 8,
        guidance: Guidance = "batched",
        guidance_on: GuidanceOn = "text and image",
    ) -> torch.Tensor:
        """Generate keyframes ``(T, 3, size, size)`` float32 in [0, 1] from one prompt and its reference.

        Args:
            prompt: what the video shows.
            reference: the image it starts from.
            num_frames: of the video.
            size: pixels of its height and width.
            num_inference_steps: denoising steps.
            guidance_scale: of classifier-free guidance; 1 is none.
            prior: kind of the latent noise prior.
            generator: of the noise, on the CPU.
            prior_strength: None is the signal's own share at the first timestep (see ``initial_latents``).
            negative_prompt: what the video does not show.
            controlnet_scale: weight of the ControlNet.
            control_guidance_end: share of the steps after which the ControlNet is silent.
            decode_chunk_size: frames decoded at once.
            guidance: both branches in one batch, or one after the other in half the memory.
            guidance_on: what guidance strengthens; see ``I2VConfig``.
        """
        device = self._execution_device
        shape = (1, self.unet.config["in_channels"], num_frames, size // 8, size // 8)
        noise = torch.randn(shape, generator=generator).to(device, self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        encoded = reference.latents(self.vae, size, device).to(noise.dtype)
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_frames": num_frames,
            "height": size,
            "width": size,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "latents": initial_latents(encoded, noise, prior, self.scheduler, strength=prior_strength),
            "ip_adapter_image_embeds": reference.embeds(
                self.image_encoder, guidance_on if guidance_scale > 1 else None, device
            ),
            "conditioning_frames": [reference.image] * num_frames,
            **control_arguments(controlnet_scale, control_guidance_end),
            "decode_chunk_size": decode_chunk_size,
            "output_type": "pt",
        }
        with guided(self, guidance, guidance_scale):
            return self(**arguments).frames[0]


def guided(pipe: Any, guidance: Guidance, guidance_scale: float) -> Any:
    """Return the context in which a pipeline's call runs its guidance as asked."""
    if guidance == "sequential" and guidance_scale > 1:
        return sequential_guidance(pipe.unet, pipe.controlnet)
    return nullcontext()


def control_arguments(scale: float, end: float) -> dict[str, float]:
    """Return a pipeline's arguments on its ControlNet; diffusers refuses an ``end`` of zero and whole numbers."""
    return {
        "controlnet_conditioning_scale": float(scale) if end > 0 else 0.0,
        "control_guidance_end": float(end) if end > 0 else 1.0,
    }
