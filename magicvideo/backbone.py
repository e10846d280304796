"""The motion-inflated backbone: spatial layers shared between stages, motion modules of each stage's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import nn

from magicvideo.errors import MagicVideoError

SPATIAL_PARTS = ("conv_in", "time_proj", "time_embedding", "conv_norm_out", "conv_act", "conv_out")
SPATIAL_BLOCK_PARTS = ("resnets", "attentions", "downsamplers", "upsamplers")

Backbone: TypeAlias = UNet2DConditionModel | UNetMotionModel


def inflate(unet: UNet2DConditionModel, motion_adapter: MotionAdapter) -> UNetMotionModel:
    """Return the video backbone whose spatial layers are the very modules of ``unet``.

    An adapter whose output projections are zero (see ``zero_motion_output``) leaves the image model as it is.
    """
    video_unet = UNetMotionModel.from_unet2d(unet, motion_adapter)
    share_spatial(unet, video_unet)
    return video_unet


def share_spatial(source: Backbone, target: Backbone) -> None:
    """Make ``target`` use the spatial submodules of ``source``: the same objects in memory."""
    for name in SPATIAL_PARTS:
        setattr(target, name, getattr(source, name))
    for here, there in zip(_blocks(source), _blocks(target), strict=True):
        for name in SPATIAL_BLOCK_PARTS:
            if getattr(here, name, None) is not None:
                setattr(there, name, getattr(here, name))


def zero_motion_output(motion: MotionAdapter | UNetMotionModel) -> None:
    """Zero the output projections of all motion modules, as the original AnimateDiff starts them."""
    for name, module in motion.named_modules():
        if "motion_modules" in name and name.endswith("proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def motion_parameters(unet: UNetMotionModel) -> dict[str, nn.Parameter]:
    """Return the parameters of the motion modules by their names in a ``MotionAdapter``."""
    return {name: value for name, value in unet.named_parameters() if "motion_modules." in name}


@torch.no_grad()
def extract_motion_adapter(unet: UNetMotionModel, like: MotionAdapter) -> MotionAdapter:
    """Copy the motion modules of ``unet`` into an adapter configured as ``like``."""
    adapter = MotionAdapter.from_config(like.config)
    state = {name: value for name, value in unet.state_dict().items() if "motion_modules." in name}
    adapter.load_state_dict(state)
    return adapter


def check_num_frames(motion_adapter: MotionAdapter, num_frames: int) -> None:
    """Refuse more frames than the adapter has positions for.

    Raises:
        MagicVideoError: naming both numbers.
    """
    positions = motion_adapter.config["motion_max_seq_length"]
    if num_frames > positions:
        raise MagicVideoError(
            f"{num_frames} frames asked of a motion adapter with {positions} positions; ask for at most "
            f"{positions}, or load an adapter trained on longer clips"
        )


@contextmanager
def frame_positions(unet: UNetMotionModel, positions: torch.Tensor) -> Iterator[None]:
    """Let the frames of a batch stand at given positions of their clips, for training on a few frames.

    Args:
        unet: the backbone; its motion modules see ``positions`` instead of 0, 1, 2, ...
        positions: ``(B, F)`` for a batch of ``B`` clips of ``F`` frames.
    """
    hooks = [
        module.register_forward_hook(_Positions(positions))
        for name, module in unet.named_modules()
        if name.endswith("pos_embed")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Positions:
    """Replace a positional embedding's output ``x + pe[:, :F]`` by ``x + pe[:, positions]``."""

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions

    def __call__(self, module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        (hidden,) = inputs  # (B * pixels, F, C), the pixels of a clip together
        embedding = module.pe[0, self.positions]  # (B, F, C)
        return hidden + embedding.repeat_interleave(len(hidden) // len(embedding), 0)


def _blocks(unet: Backbone) -> list[nn.Module]:
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
