"""The appearance encoder: decoupled from the text, and kept in IP-Adapter's file format."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from magicvideo.appearance import attach_appearance, export_appearance, load_appearance, set_appearance_scale
from magicvideo.backbone import inflate
from magicvideo.errors import MagicVideoError
from magicvideo.sprites import architecture


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
