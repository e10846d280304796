"""The appearance encoder: image tokens through cross-attention of their own, decoupled from the text.

The paper injects "reference image embeddings ... via a cross-attention mechanism" so that "the image prompt can
be effectively decoupled from the text prompts"; read here as IP-Adapter's decoupled cross-attention (Ye et al.
2023). Two kinds of image tokens: the base variant projects the image embedding to four of them, the Plus variant
resamples the image encoder's patches. Files are in IP-Adapter's published format, so published weights load and
ours load elsewhere.
"""

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterPlusImageProjection,
    MultiIPAdapterImageProjection,
)
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from magicvideo.config import GuidanceOn
from magicvideo.errors import MagicVideoError
from magicvideo.published import check_keys, read_state
from magicvideo.reference import Reference, branches

NUM_TOKENS = 4
PLUS_HEAD_DIM = 64  # of every published Plus file; none says so
PLUS_NAMES = (  # published, diffusers
    ("0.norm1.", "ln0."),
    ("0.norm2.", "ln1."),
    ("0.to_q.", "attn.to_q."),
    ("0.to_out.", "attn.to_out.0."),
    ("1.0.", "ff.0."),
    ("1.1.", "ff.1.net.0.proj."),
    ("1.3.", "ff.1.net.2."),
)


class AppearanceAttnProcessor(IPAdapterAttnProcessor2_0):
    """IP-Adapter's processor; called with text states alone it is plain cross-attention."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Attend to the text, and to image tokens where there are any."""
        if not isinstance(encoder_hidden_states, tuple):
            encoder_hidden_states = (encoder_hidden_states, [])
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def attach_appearance(
    unet: UNet2DConditionModel | UNetMotionModel, image_dim: int, scale: float = 1.0
) -> None:
    """Give every text cross-attention of ``unet`` untrained image keys and values, and project the embedding.

    Args:
        unet: the backbone; ``unet.encoder_hid_proj`` is set.
        image_dim: width of the image encoder's embedding.
        scale: weight of the image attention beside the text's.
    """
    text_dim = unet.config["cross_attention_dim"]
    projection = ImageProjection(image_dim, text_dim, num_image_text_embeds=NUM_TOKENS)
    _attach_projection(unet, projection, NUM_TOKENS, scale)


def set_appearance_scale(unet: UNetMotionModel, scale: float) -> None:
    """Set the weight of the image attention; 0 leaves the text alone."""
    for processor in unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [scale] * len(processor.scale)


def takes_patches(unet: UNetMotionModel) -> bool:
    """Return whether the attached encoder reads the image encoder's patches (Plus) or its embedding (base)."""
    return isinstance(_projection(unet), IPAdapterPlusImageProjection)


def export_appearance(unet: UNetMotionModel) -> dict[str, Tensor]:
    """Return the attached appearance encoder under the key names of IP-Adapter's published files."""
    projection = _projection(unet)
    convert = (
        _plus_to_published if isinstance(projection, IPAdapterPlusImageProjection) else _base_to_published
    )
    state = {f"image_proj.{name}": value for name, value in convert(projection.state_dict()).items()}
    for index, processor in _numbered_processors(unet):
        state[f"ip_adapter.{index}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        state[f"ip_adapter.{index}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {key: value.detach().clone() for key, value in state.items()}


@torch.no_grad()
def load_appearance(unet: UNetMotionModel, path: Path, scale: float = 1.0) -> None:
    """Attach the appearance encoder kept in an IP-Adapter file (``.safetensors`` or ``.bin``; base or Plus).

    Raises:
        MagicVideoError: the file is of another variant, or its keys or sizes are not those of ``unet``; all odd
            keys are listed.
    """
    state = read_state(path)
    if "image_proj.proj.weight" in state:
        attach_appearance(unet, state["image_proj.proj.weight"].shape[1], scale)
    elif "image_proj.latents" in state:
        _attach_plus(unet, state, path, scale)
    else:
        raise MagicVideoError(
            f"{path} is no IP-Adapter file of the base or Plus variant: it has neither image_proj.proj.weight "
            f"nor image_proj.latents"
        )
    expected = {name: value.shape for name, value in export_appearance(unet).items()}
    check_keys(expected, state, path)
    projection = _projection(unet)
    convert = _plus_from_published if takes_patches(unet) else _base_from_published
    prefix = "image_proj."
    projection.load_state_dict(
        convert(
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        )
    )
    for index, processor in _numbered_processors(unet):
        processor.to_k_ip[0].weight.copy_(state[f"ip_adapter.{index}.to_k_ip.weight"])
        processor.to_v_ip[0].weight.copy_(state[f"ip_adapter.{index}.to_v_ip.weight"])


def _attach_projection(
    unet: UNet2DConditionModel | UNetMotionModel, projection: nn.Module, num_tokens: int, scale: float
) -> None:
    processors: dict[str, nn.Module | AttnProcessor2_0] = {}
    for name, attention in unet.named_modules():
        if not name.endswith(("attn1", "attn2")):
            continue
        if name.endswith("attn2") and "motion_modules" not in name:
            processors[f"{name}.processor"] = AppearanceAttnProcessor(
                hidden_size=attention.to_q.out_features,
                cross_attention_dim=unet.config["cross_attention_dim"],
                num_tokens=(num_tokens,),
                scale=scale,
            )
        else:
            processors[f"{name}.processor"] = AttnProcessor2_0()
    unet.encoder_hid_proj = None  # a projection attached before may hold attentions of its own
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")


def _attach_plus(unet: UNetMotionModel, state: dict[str, Tensor], path: Path, scale: float) -> None:
    """Attach a Plus projection of the sizes that ``state`` shows."""
    depth = len([name for name in state if re.fullmatch(r"image_proj\.layers\.\d+\.0\.to_q\.weight", name)])
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        _, num_queries, hidden = shapes["image_proj.latents"]
        inner = shapes["image_proj.layers.0.0.to_q.weight"][0]
        ratio = shapes["image_proj.layers.0.1.1.weight"][0] / hidden
        projection = IPAdapterPlusImageProjection(
            embed_dims=shapes["image_proj.proj_in.weight"][1],
            output_dims=shapes["image_proj.proj_out.weight"][0],
            hidden_dims=hidden,
            depth=depth,
            dim_head=PLUS_HEAD_DIM,
            heads=inner // PLUS_HEAD_DIM,
            num_queries=num_queries,
            ffn_ratio=ratio,
        )
    except KeyError as error:
        raise MagicVideoError(f"{path} is an incomplete IP-Adapter Plus file: missing {error}") from error
    _attach_projection(unet, projection, num_queries, scale)


def _projection(unet: UNetMotionModel) -> nn.Module:
    return unet.encoder_hid_proj.image_projection_layers[0]


def _base_to_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("image_embeds.", "proj."): value for name, value in state.items()}


def _base_from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("proj.", "image_embeds."): value for name, value in state.items()}


def _plus_to_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    published: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".attn.to_k." in name:
            both = torch.cat([value, state[name.replace(".to_k.", ".to_v.")]])
            published[name.replace(".attn.to_k.", ".0.to_kv.")] = both
        elif ".attn.to_v." not in name:
            published[_renamed(name, [(ours, theirs) for theirs, ours in PLUS_NAMES])] = value
    return published


def _plus_from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".0.to_kv." in name:
            keys, values = value.chunk(2)
            ours[name.replace(".0.to_kv.", ".attn.to_k.")] = keys
            ours[name.replace(".0.to_kv.", ".attn.to_v.")] = values
        else:
            ours[_renamed(name, PLUS_NAMES)] = value
    return ours


def _renamed(name: str, names: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    """Replace what follows ``layers.N.`` in ``name``, if it is among ``names``."""
    match = re.match(r"(layers\.\d+\.)(.*)", name)
    if match is None:
        return name
    for old, new in names:
        if match[2].startswith(old):
            return match[1] + new + match[2].removeprefix(old)
    return name


def _numbered_processors(unet: UNetMotionModel) -> list[tuple[int, IPAdapterAttnProcessor2_0]]:
    """Number the image attentions as IP-Adapter does: odd numbers in the order down, up, mid."""
    spatial = [
        processor
        for name, processor in unet.attn_processors.items()
        if "motion_modules" not in name and name.endswith("attn2.processor")
    ]
    return [(2 * index + 1, processor) for index, processor in enumerate(spatial)]


class PatchReference(Reference):
    """A reference image for the Plus variant, which reads the image encoder's patches."""

    def embeds(
        self,
        image_encoder: CLIPVisionModelWithProjection,
        guided: GuidanceOn | None,
        device: torch.device | None = None,
    ) -> list[Tensor]:
        """Return the patches ``[(1 or 2, 1, N, D)]``; without an image they are those of an image of zeros."""
        if self._embeds is None:
            weight = next(image_encoder.parameters())
            pixels = self.processor(images=self.image, return_tensors="pt").pixel_values
            pixels = pixels.to(device or weight.device, weight.dtype)
            both = torch.cat([torch.zeros_like(pixels), pixels])
            self._embeds = image_encoder(both, output_hidden_states=True).hidden_states[-2][:, None]
        return [branches(self._embeds[:1], self._embeds[1:], guided)]
