"""Low-rank adapters in the LoRA format of diffusers: read, checked, and added to the weights they were trained on.

An adapter holds, for each layer it changes, ``A (r, in)`` and ``B (out, r)``; the layer's weight becomes
``W + alpha / r * B A`` (Hu et al. 2021). Adding it once when a pipeline is loaded costs nothing afterwards, and a
saved pipeline holds what was added.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from magicvideo.errors import MagicVideoError
from magicvideo.published import check_finite, read_state
from magicvideo.sources import locate_part

LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers names it
SETTINGS_FILE = "adapter.json"
METADATA_KEY = "lora_adapter_metadata"  # where diffusers keeps rank and alpha in the file's header
SIDES = {"lora_A": "down", "lora.down": "down", "lora_B": "up", "lora.up": "up"}
KEY = re.compile(rf"(?:unet\.)?(?P<layer>.+)\.(?P<side>{'|'.join(map(re.escape, SIDES))})\.weight")

AdapterStages = Literal["t2i", "all"]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter adds.

    Attributes:
        deltas: to each weight by its layer's name in the backbone, float32.
        stages: ``t2i`` adds it to text-to-image alone, ``all`` to the spatial layers that every stage shares.
        source: where it was read.
    """

    deltas: dict[str, Tensor]
    stages: AdapterStages
    source: Path

    @property
    def spatial(self) -> dict[str, Tensor]:
        """The deltas of layers that an image model has."""
        return {name: value for name, value in self.deltas.items() if "motion_modules." not in name}

    @property
    def motion(self) -> dict[str, Tensor]:
        """The deltas of motion modules."""
        return {name: value for name, value in self.deltas.items() if "motion_modules." in name}


def read_adapter(source: str | Path) -> Adapter:
    """Read an adapter from a folder or file, or from the hub.

    A folder holds ``pytorch_lora_weights.safetensors``, and ``adapter.json`` with ``{"stages": "t2i"}`` if it is
    for text-to-image alone; without that file an adapter is for all stages.

    Raises:
        MagicVideoError: nothing there, or a file that is no LoRA of a UNet in the format of diffusers.
    """
    place = locate_part(str(source))
    if place is None:
        raise MagicVideoError(
            f"there is no adapter at {str(source)!r}; give a folder with {LORA_FILE}, such a file, or a hub id"
        )
    path = place / LORA_FILE if place.is_dir() else place
    state = read_state(path)
    check_finite(state, path)
    deltas = _deltas(state, _scales(path), path)
    return Adapter(deltas=deltas, stages=_stages(path.with_name(SETTINGS_FILE)), source=path)


@torch.no_grad()
def add_deltas(module: nn.Module, deltas: dict[str, Tensor], source: Path) -> None:
    """Add deltas to the weights of the layers they name, in place.

    Raises:
        MagicVideoError: a layer is not there, or has another shape; nothing is changed then.
    """
    weights = dict(module.named_parameters())
    for layer, delta in deltas.items():
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.shape != delta.shape:
            found = "no such layer" if weight is None else f"a weight of {tuple(weight.shape)}"
            raise MagicVideoError(
                f"the adapter {source} was trained on another model: it changes {layer} by "
                f"{tuple(delta.shape)}, where this checkpoint has {found}"
            )
    for layer, delta in deltas.items():
        weight = weights[f"{layer}.weight"]
        weight.copy_(weight.float() + delta.to(weight.device))


def _deltas(state: dict[str, Tensor], scales: dict[str, float], path: Path) -> dict[str, Tensor]:
    """Multiply the two halves of every layer."""
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for key, value in state.items():
        if key.endswith(".alpha"):
            alphas[key.removeprefix("unet.").removesuffix(".alpha")] = float(value)
            continue
        match = KEY.fullmatch(key)
        if match is None or key.startswith("text_encoder"):
            raise MagicVideoError(
                f"{path} is no LoRA of a UNet in the format of diffusers: it holds {key}; expected keys like "
                f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
            )
        halves.setdefault(match["layer"], {})[SIDES[match["side"]]] = value.float()
    deltas = {}
    for layer, sides in halves.items():
        if len(sides) < 2:
            raise MagicVideoError(f"{path} is incomplete: {layer} has only the {next(iter(sides))} matrix")
        down, up = sides["down"], sides["up"]
        alpha = alphas.get(layer, scales.get("alpha"))
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        deltas[layer] = scale * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
    if not deltas:
        raise MagicVideoError(f"{path} changes no layer")
    return deltas


def _scales(path: Path) -> dict[str, float]:
    """Return ``{"alpha": ...}`` if the file's header says what diffusers writes there."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise MagicVideoError(f"{path} is damaged: {error}") from error
    alpha = settings.get("unet.lora_alpha", settings.get("lora_alpha"))
    return {} if alpha is None else {"alpha": float(alpha)}


def _stages(path: Path) -> AdapterStages:
    if not path.is_file():
        return "all"
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MagicVideoError(f"{path} does not say which stages the adapter is for: {error!r}") from error
    for known in get_args(AdapterStages):
        if stages == known:
            return known
    raise MagicVideoError(f"{path}: unknown stages {stages!r}; known: {', '.join(get_args(AdapterStages))}")
