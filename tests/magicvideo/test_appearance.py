"""The appearance encoder: decoupled from the text, and kept in IP-Adapter's file format."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from magicvideo.appearance import (
    PatchReference,
    attach_appearance,
    export_appearance,
    load_appearance,
    set_appearance_scale,
    takes_patches,
)
from magicvideo.backbone import inflate
from magicvideo.errors import MagicVideoError
from magicvideo.reference import Reference
from magicvideo.sprites import architecture
from magicvideo.training.sprites import build_feature_extractor


@pytest.fixture
def unet():  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    unet = inflate(architecture.build_unet(), architecture.build_motion_adapter())
    attach_appearance(unet, architecture.IMAGE_DIM)
    return unet


def run(unet, image: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 2, 9, 9, generator=generator)
    states = torch.randn(2, 8, architecture.TEXT_DIM, generator=generator)
    with torch.no_grad():
        return unet(latents, 500, states, added_cond_kwargs={"image_embeds": [image]}).sample


IMAGE = torch.ones(1, 1, architecture.IMAGE_DIM)


def test_image_matters_and_scale_zero_silences_it(unet) -> None:  # type: ignore[no-untyped-def]
    assert not torch.allclose(run(unet, IMAGE), run(unet, -IMAGE))
    set_appearance_scale(unet, 0.0)
    assert torch.equal(run(unet, IMAGE), run(unet, -IMAGE))


def test_file_round_trip_is_exact_and_keys_are_the_published_ones(unet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = export_appearance(unet)
    assert {key.split(".")[0] for key in state} == {"image_proj", "ip_adapter"}
    assert {int(key.split(".")[1]) for key in state if key.startswith("ip_adapter")} == set(range(1, 15, 2))
    save_file(state, tmp_path / "ip.safetensors")
    expected = run(unet, IMAGE)
    load_appearance(unet, tmp_path / "ip.safetensors")
    assert torch.equal(run(unet, IMAGE), expected)


def test_diffusers_own_loader_reads_our_file(unet) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    stock = inflate(architecture.build_unet(), architecture.build_motion_adapter())
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in export_appearance(unet).items():
        part, name = key.split(".", 1)
        nested[part][name] = value
    stock._load_ip_adapter_weights([nested])
    assert torch.allclose(run(stock, IMAGE), run(unet, IMAGE), atol=1e-5)


def test_file_that_does_not_fit_lists_its_keys(unet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = export_appearance(unet)
    del state["ip_adapter.5.to_v_ip.weight"]
    save_file(state, tmp_path / "ip.safetensors")
    with pytest.raises(MagicVideoError, match=r"ip_adapter\.5\.to_v_ip\.weight"):
        load_appearance(unet, tmp_path / "ip.safetensors")


def nested(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    groups: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        group, name = key.split(".", 1)
        groups[group][name] = value
    return groups


def plus_state(unet, depth: int = 4) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Return random weights under the names of ``ip-adapter-plus_sd15``; 5 tokens from patches of width 96."""
    generator = torch.Generator().manual_seed(2)
    hidden, text = 128, architecture.TEXT_DIM
    shapes = {"latents": (1, 5, hidden), "proj_in.weight": (hidden, 96), "proj_in.bias": (hidden,)}
    shapes |= {"proj_out.weight": (text, hidden), "proj_out.bias": (text,)}
    shapes |= {"norm_out.weight": (text,), "norm_out.bias": (text,)}
    for level in range(depth):
        block = f"layers.{level}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"{block}.{norm}.weight": (hidden,), f"{block}.{norm}.bias": (hidden,)}
        shapes |= {
            f"{block}.0.to_q.weight": (hidden, hidden),
            f"{block}.0.to_kv.weight": (2 * hidden, hidden),
        }
        shapes |= {f"{block}.0.to_out.weight": (hidden, hidden)}
        shapes |= {f"{block}.1.1.weight": (4 * hidden, hidden), f"{block}.1.3.weight": (hidden, 4 * hidden)}
    state = {
        f"image_proj.{name}": 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    return state | {
        key: value for key, value in export_appearance(unet).items() if key.startswith("ip_adapter")
    }


PATCHES = torch.linspace(-1, 1, 17 * 96).view(1, 1, 17, 96)


def test_plus_file_computes_what_diffusers_own_loader_makes_of_it(unet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = plus_state(unet)
    torch.save(nested(state), tmp_path / "plus.bin")
    load_appearance(unet, tmp_path / "plus.bin")
    assert takes_patches(unet)
    torch.manual_seed(1)
    stock = inflate(architecture.build_unet(), architecture.build_motion_adapter())
    stock._load_ip_adapter_weights([nested(state)])
    assert torch.allclose(run(stock, PATCHES), run(unet, PATCHES), atol=1e-5)
    assert not torch.allclose(run(unet, PATCHES), run(unet, -PATCHES), atol=1e-3)


def test_plus_round_trip_is_exact_and_any_depth_loads(unet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = plus_state(unet, depth=2)
    save_file(state, tmp_path / "plus.safetensors")
    load_appearance(unet, tmp_path / "plus.safetensors")
    exported = export_appearance(unet)
    assert exported.keys() == state.keys()
    assert all(torch.equal(value, exported[key]) for key, value in state.items())
    del state["image_proj.layers.1.0.to_kv.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(MagicVideoError, match=r"missing: image_proj\.layers\.1\.0\.to_kv\.weight"):
        load_appearance(unet, tmp_path / "less.safetensors")


def test_other_variants_are_refused(unet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_file({"image_proj.proj.0.weight": torch.zeros(2, 2)}, tmp_path / "full.safetensors")
    with pytest.raises(MagicVideoError, match="is no IP-Adapter file of the base or Plus variant"):
        load_appearance(unet, tmp_path / "full.safetensors")


def test_patches_are_those_that_diffusers_encodes() -> None:
    torch.manual_seed(3)
    encoder = architecture.build_image_encoder().eval()
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    extractor = build_feature_extractor()
    with torch.no_grad():
        patches = PatchReference(image, extractor)
        guided, kept, alone = (patches.embeds(encoder, on)[0] for on in ("text and image", "text", None))
        stock = StableDiffusionPipeline.encode_image
        holder = type("Holder", (), {"image_encoder": encoder, "feature_extractor": extractor})()
        positive, negative = stock(holder, image, torch.device("cpu"), 1, output_hidden_states=True)
    assert torch.allclose(guided, torch.cat([negative, positive])[:, None], atol=1e-6)
    assert torch.allclose(alone, positive[:, None], atol=1e-6)
    assert torch.equal(kept, torch.cat([alone, alone]))
    assert Reference(image, extractor).embeds(encoder, None)[0].shape == (1, 1, architecture.IMAGE_DIM)
