"""The appearance encoder: image tokens through cross-attention of their own, decoupled from the text.

The paper injects "reference image embeddings ... via a cross-attention mechanism" so that "the image prompt can
be effectively decoupled from the text prompts"; read here as IP-Adapter's decoupled cross-attention (Ye et al.
2023). Files are in IP-Adapter's published format, so published weights load and ours load elsewhere.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from safetensors.torch import load_file
from torch import nn

from magicvideo.errors import MagicVideoError

NUM_TOKENS = 4


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
    processors: dict[str, nn.Module | AttnProcessor2_0] = {}
    for name, attention in unet.named_modules():
        if not name.endswith(("attn1", "attn2")):
            continue
        if name.endswith("attn2") and "motion_modules" not in name:
            processors[f"{name}.processor"] = AppearanceAttnProcessor(
                hidden_size=attention.to_q.out_features,
                cross_attention_dim=text_dim,
                num_tokens=(NUM_TOKENS,),
                scale=scale,
            )
        else:
            processors[f"{name}.processor"] = AttnProcessor2_0()
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection(
        [ImageProjection(image_dim, text_dim, num_image_text_embeds=NUM_TOKENS)]
    )
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")


def set_appearance_scale(unet: UNetMotionModel, scale: float) -> None:
    """Set the weight of the image attention; 0 leaves the text alone."""
    for processor in unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [scale] * len(processor.scale)


def export_appearance(unet: UNetMotionModel) -> dict[str, torch.Tensor]:
    """Return the attached appearance encoder under the key names of IP-Adapter's published files."""
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    names = {"image_embeds": "proj", "norm": "norm"}
    state = {
        f"image_proj.{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": value
        for key, value in projection.state_dict().items()
    }
    for index, processor in _numbered_processors(unet):
        state[f"ip_adapter.{index}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        state[f"ip_adapter.{index}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {key: value.detach().clone() for key, value in state.items()}


@torch.no_grad()
def load_appearance(unet: UNetMotionModel, path: Path, scale: float = 1.0) -> None:
    """Attach the appearance encoder kept in an IP-Adapter file (``.safetensors``, base variant).

    Raises:
        MagicVideoError: the file's keys or sizes are not those of ``unet``; all odd keys are listed.
    """
    state = load_file(path)
    if "image_proj.proj.weight" not in state:
        raise MagicVideoError(f"{path} is no IP-Adapter file: it has no image_proj.proj.weight")
    attach_appearance(unet, state["image_proj.proj.weight"].shape[1], scale)
    expected = export_appearance(unet)
    odd = sorted(expected.keys() ^ state.keys())
    odd += sorted(key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape)
    if odd:
        raise MagicVideoError(
            f"{path} does not fit this backbone; missing, unexpected or misshapen: {', '.join(odd)}"
        )
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    projection.image_embeds.load_state_dict(
        {"weight": state["image_proj.proj.weight"], "bias": state["image_proj.proj.bias"]}
    )
    projection.norm.load_state_dict(
        {"weight": state["image_proj.norm.weight"], "bias": state["image_proj.norm.bias"]}
    )
    for index, processor in _numbered_processors(unet):
        processor.to_k_ip[0].weight.copy_(state[f"ip_adapter.{index}.to_k_ip.weight"])
        processor.to_v_ip[0].weight.copy_(state[f"ip_adapter.{index}.to_v_ip.weight"])


def _numbered_processors(unet: UNetMotionModel) -> list[tuple[int, IPAdapterAttnProcessor2_0]]:
    """Number the image attentions as IP-Adapter does: odd numbers in the order down, up, mid."""
    spatial = [
        processor
        for name, processor in unet.attn_processors.items()
        if "motion_modules" not in name and name.endswith("attn2.processor")
    ]
    return [(2 * index + 1, processor) for index, processor in enumerate(spatial)]
