"""The denoiser with all that conditions it, as training calls it: clips through I2V or V2V, images without motion."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from magicvideo.appearance import set_appearance_scale, takes_patches
from magicvideo.backbone import enable_full_checkpointing, frame_positions, set_group_norm
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.diffusion import embedded_once, tokenize
from magicvideo.training.recipe import Group


@dataclass(frozen=True, kw_only=True)
class DenoiserParts:
    """The modules of one stage; ``image_unet`` and ``video_unet`` share their spatial layers."""

    image_unet: UNet2DConditionModel
    video_unet: UNetMotionModel
    controlnet: ControlNetModel
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModelWithProjection
    tokenizer: CLIPTokenizer
    feature_extractor: CLIPImageProcessor
    scheduler: DDIMScheduler

    @classmethod
    def of(cls, pipe: MagicVideoPipeline, stage: str) -> "DenoiserParts":
        """Return the modules of a pipeline's ``stage``, i2v or v2v, normalised as it does."""
        parts, v2v = pipe.components, stage == "v2v"
        parts.use_appearance(stage)
        video_unet = parts.v2v_unet if v2v else parts.i2v_unet
        set_group_norm(video_unet, (pipe.config.v2v if v2v else pipe.config.i2v).group_norm)
        return cls(
            image_unet=parts.unet,
            video_unet=video_unet,
            controlnet=(v2v and parts.v2v_controlnet) or parts.controlnet,
            text_encoder=parts.text_encoder,
            image_encoder=parts.image_encoder,
            tokenizer=parts.tokenizer,
            feature_extractor=parts.feature_extractor,
            scheduler=parts.scheduler,
        )


@dataclass(frozen=True, kw_only=True)
class DenoiserInputs:
    """A batch.

    Attributes:
        noisy: ``(B, C, F, h, w)``.
        timesteps: ``(B,)``.
        captions: ``B`` texts; an empty one is the unconditional prompt.
        references: ``(B, 3, S, S)`` uint8.
        keep_image: ``(B,)`` whether a sample's reference embedding is given.
        positions: ``(B, F)`` where in its clip each frame stands.
        motion: whether the frames go through the motion modules; without them ``F`` is 1.
        controlnet: whether the reference's pixels are given.
    """

    noisy: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    references: torch.Tensor
    keep_image: torch.Tensor
    positions: torch.Tensor
    motion: bool
    controlnet: bool


def trainable_parameters(parts: DenoiserParts, groups: tuple[Group, ...]) -> dict[str, nn.Parameter]:
    """Return the parameters of the named groups; all others of the denoiser are frozen."""
    found: dict[str, nn.Parameter] = {}
    for name, value in parts.video_unet.named_parameters():
        found[f"{_group_of(name)}:{name}"] = value
    found |= {f"controlnet:{name}": value for name, value in parts.controlnet.named_parameters()}
    found |= {f"text:{name}": value for name, value in parts.text_encoder.named_parameters()}
    parts.image_encoder.requires_grad_(False)
    chosen = {name: value for name, value in found.items() if name.split(":")[0] in groups}
    for name, value in found.items():
        value.requires_grad_(name in chosen)
    return chosen


def _group_of(name: str) -> Group:
    if "motion_modules." in name:
        return "motion"
    return "appearance" if "_ip." in name or name.startswith("encoder_hid_proj.") else "spatial"


class Denoiser:
    """Predict noise or velocity from noisy latents, text and reference image."""

    def __init__(self, parts: DenoiserParts, *, appearance: bool) -> None:
        """Take the modules; ``appearance`` says whether the reference's embedding is used at all."""
        self.parts, self.appearance = parts, appearance
        self._open = ExitStack()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parts.image_unet.conv_in.weight.device

    def checkpoint_gradients(self) -> None:
        """Recompute the blocks of backbone and ControlNet in the backward pass instead of keeping them."""
        enable_full_checkpointing(self.parts.video_unet)
        self.parts.controlnet.enable_gradient_checkpointing()

    def release(self) -> None:
        """Let frames stand at positions 0, 1, 2, ... again."""
        self._open.close()

    def __call__(self, inputs: DenoiserInputs) -> torch.Tensor:
        """Return the prediction ``(B, C, F, h, w)`` in float32.

        The frames' positions hold until the next call or ``release``: blocks that are recomputed in the
        backward pass need them once more.
        """
        self.release()
        parts, (count, _, frames) = self.parts, inputs.noisy.shape[:3]
        set_appearance_scale(parts.video_unet, 1.0 if self.appearance else 0.0)
        states = self._states(inputs.captions).repeat_interleave(frames, 0)
        embeds = self._embeds(inputs)
        noisy = inputs.noisy.to(parts.image_unet.dtype)
        flat = noisy.transpose(1, 2).flatten(0, 1)
        residuals = self._residuals(inputs, flat, states) if inputs.controlnet else {}
        if not inputs.motion:
            image_states = (states, parts.video_unet.encoder_hid_proj([embeds]))
            predicted = parts.image_unet(flat, inputs.timesteps, image_states, **residuals).sample
            return predicted.unflatten(0, (count, frames)).transpose(1, 2).float()
        self._open.enter_context(frame_positions(parts.video_unet, inputs.positions))
        return parts.video_unet(
            noisy,
            inputs.timesteps,
            states,
            added_cond_kwargs={"image_embeds": [embeds]},
            **residuals,
        ).sample.float()

    def _states(self, captions: list[str]) -> torch.Tensor:
        tokens = tokenize(self.parts.tokenizer, captions).to(self.device)
        return self.parts.text_encoder(tokens).last_hidden_state

    def _embeds(self, inputs: DenoiserInputs) -> torch.Tensor:
        """Return ``(B, 1, D)`` or, for the Plus variant, ``(B, 1, N, D)``; dropped ones as at generation."""
        encoder, keep = self.parts.image_encoder, inputs.keep_image
        images = list(inputs.references.permute(0, 2, 3, 1).numpy())
        pixels = self.parts.feature_extractor(images=images, return_tensors="pt").pixel_values
        pixels = pixels.to(self.device, next(encoder.parameters()).dtype)
        keep = keep.to(self.device).view(-1, 1, 1)
        if not takes_patches(self.parts.video_unet):
            return encoder(pixels).image_embeds.unsqueeze(1) * keep
        given = pixels * keep.unsqueeze(-1)  # without an image, the encoder sees grey
        return encoder(given, output_hidden_states=True).hidden_states[-2].unsqueeze(1)

    def _residuals(self, inputs: DenoiserInputs, flat: torch.Tensor, states: torch.Tensor) -> dict[str, Any]:
        controlnet, frames = self.parts.controlnet, inputs.noisy.shape[2]
        condition = (inputs.references.float() / 255).to(self.device, next(controlnet.parameters()).dtype)
        with embedded_once(controlnet, frames):
            down, mid = controlnet(
                flat,
                inputs.timesteps.repeat_interleave(frames),
                states,
                controlnet_cond=condition,
                return_dict=False,
            )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
