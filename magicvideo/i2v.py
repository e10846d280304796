"""Image to video: AnimateDiff's ControlNet pipeline of diffusers, with the reference at batch 1 and a noise prior."""

from typing import Any

import torch
from diffusers import AnimateDiffControlNetPipeline

from magicvideo.config import PriorKind
from magicvideo.noise_prior import noise_prior
from magicvideo.reference import Reference


class MagicVideoI2V(AnimateDiffControlNetPipeline):
    """Animate a reference image into low-resolution keyframes.

    The denoising loop is diffusers' own. Only the preparation of the ControlNet condition differs: all frames
    of a video share one reference, so it is embedded once and broadcast (bit-identical, and 1/64 of the work at
    32 frames with guidance).
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
        """Return the ControlNet condition: ``(1, 3, H, W)`` for one video, else one row a frame."""
        condition = self.control_video_processor.preprocess_video(video, height=height, width=width)
        return shared_condition(
            condition[:, :, 0].to(device=device, dtype=dtype),
            batch_size,
            do_classifier_free_guidance and not guess_mode,
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
        negative_prompt: str = "",
        controlnet_scale: float = 1.0,
        control_guidance_end: float = 1.0,
        decode_chunk_size: int = 8,
    ) -> torch.Tensor:
        """Generate keyframes ``(T, 3, size, size)`` float32 in [0, 1] from one prompt and its reference."""
        noise = torch.randn(
            (1, self.unet.config["in_channels"], num_frames, size // 8, size // 8), generator=generator
        ).to(self.device, self.dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        alpha = self.scheduler.alphas_cumprod[int(self.scheduler.timesteps[0])]
        latents = noise_prior(reference.latents(self.vae, size), noise, prior, strength=float(alpha.sqrt()))
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_frames": num_frames,
            "height": size,
            "width": size,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "latents": latents,
            "ip_adapter_image_embeds": reference.embeds(self.image_encoder, guidance_scale > 1),
            "conditioning_frames": [reference.image] * num_frames,
            "controlnet_conditioning_scale": controlnet_scale,
            "control_guidance_end": control_guidance_end,
            "decode_chunk_size": decode_chunk_size,
            "output_type": "pt",
        }
        return self(**arguments).frames[0]


def shared_condition(condition: torch.Tensor, batch_size: int, guided: bool) -> torch.Tensor:
    """Repeat per-video references ``(V, 3, H, W)`` as far as needed: not at all for one video.

    Args:
        condition: one reference per video.
        batch_size: videos times frames.
        guided: whether classifier-free guidance doubles the batch.
    """
    if len(condition) == 1:
        return condition
    rows = condition.repeat_interleave(batch_size // len(condition), dim=0)
    return torch.cat([rows] * 2) if guided else rows
