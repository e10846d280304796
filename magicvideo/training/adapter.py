"""A low-rank adapter on a backbone, by PEFT: hung in, switched off for the reference, and saved as diffusers does."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from magicvideo.backbone import Backbone
from magicvideo.errors import MagicVideoError
from magicvideo.lora import SETTINGS_FILE
from magicvideo.training.loop import write_json

NAME = "preference"
ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)"
OTHERS = r"ff\.net\.(0\.proj|2)|proj_in|proj_out|conv1|conv2|conv_shortcut|time_emb_proj"


def target_layers(unet: Backbone, targets: Literal["attention", "all"], *, motion: bool) -> list[str]:
    """Return the names of the layers an adapter changes: of the blocks' attentions, or of the whole blocks.

    Args:
        unet: an image or video backbone.
        targets: which kinds of layers.
        motion: whether those of motion modules are among them.
    """
    pattern = re.compile(rf"\.({ATTENTION}|{OTHERS})$" if targets == "all" else rf"\.({ATTENTION})$")
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and pattern.search(name)
        and (motion or "motion_modules." not in name)
    ]


def add_adapter(
    unet: Backbone, *, rank: int, targets: Literal["attention", "all"], motion: bool, seed: int
) -> dict[str, nn.Parameter]:
    """Hang an adapter into a backbone that adds nothing yet; return its parameters, the only ones to train.

    Raises:
        MagicVideoError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise MagicVideoError("tuning on preferences needs peft: pip install peft") from error

    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=target_layers(unet, targets, motion=motion))
    unet.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(settings, NAME)
    return {name: value for name, value in unet.named_parameters() if value.requires_grad}


@contextmanager
def adapter_off(unet: Backbone) -> Iterator[None]:
    """Let the backbone be as it was before ``add_adapter``, for a while."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


def save_adapter(unet: Backbone, folder: Path, settings: Mapping[str, object]) -> None:
    """Write the adapter as diffusers' ``save_lora_weights`` does, and ``adapter.json``, whole or not at all."""
    from peft import get_peft_model_state_dict

    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    state = get_peft_model_state_dict(unet, adapter_name=NAME)
    StableDiffusionPipeline.save_lora_weights(
        temporary, unet_lora_layers={name: value.detach().cpu().contiguous() for name, value in state.items()}
    )
    write_json(temporary / SETTINGS_FILE, dict(settings))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
