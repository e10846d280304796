"""Video to video: bring the keyframes to high resolution and refine them, guided by the same reference."""

from typing import Any

import torch
from diffusers import AnimateDiffVideoToVideoControlNetPipeline

from magicvideo.errors import MagicVideoError
from magicvideo.i2v import shared_condition
from magicvideo.reference import Reference


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
        """Return the ControlNet condition: ``(1, 3, H, W)`` for one video, else one row a frame."""
        condition = self.control_video_processor.preprocess_video(video, height=height, width=width)
        guided = do_classifier_free_guidance and not guess_mode
        return shared_condition(condition[:, :, 0].to(device=device, dtype=dtype), batch_size, guided)

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
        decode_chunk_size: int = 4,
    ) -> torch.Tensor:
        """Return ``keyframes`` ``(T, 3, S, S)`` in [0, 1] refined at ``(T, 3, size, size)``.

        Raises:
            MagicVideoError: ``strength`` leaves no denoising step (diffusers would return an empty video).
        """
        check_strength(strength, num_inference_steps)
        video = resize_frames(keyframes, size)
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "video": video,
            "height": size,
            "width": size,
            "strength": strength,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "generator": generator,
            "ip_adapter_image_embeds": reference.embeds(self.image_encoder, guidance_scale > 1),
            "conditioning_frames": [reference.image] * len(keyframes),
            "controlnet_conditioning_scale": controlnet_scale,
            "decode_chunk_size": decode_chunk_size,
            "output_type": "pt",
        }
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
