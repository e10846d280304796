"""Adapters: what diffusers makes of a LoRA file, ours makes too; stages, round trips, and files that do not fit."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from magicvideo.backbone import bare_backbone
from magicvideo.components import Components
from magicvideo.config import PipelineConfig
from magicvideo.errors import MagicVideoError
from magicvideo.lora import LORA_FILE, SETTINGS_FILE, add_deltas, read_adapter
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.adapter import adapter_off, add_adapter, save_adapter, target_layers

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
PROMPT = "a small red star growing on a black background"


@pytest.fixture(scope="module")
def tuned(components: Components, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Return a saved adapter of all kinds of layers with weights of some size, and the backbone it hangs in."""
    unet = bare_backbone(components.unet).eval()
    parameters = add_adapter(unet, rank=2, targets="all", motion=False, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, value in parameters.items():
        if "lora_B" in name:
            value.data = 0.1 * torch.randn(value.shape, generator=generator)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    save_adapter(unet, folder, {"stages": "t2i"})
    return folder, unet


def forward(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    noisy, states = torch.randn(1, 4, 6, 6, generator=generator), torch.randn(1, 16, 128, generator=generator)
    with torch.no_grad():
        return unet(noisy, torch.tensor([500]), states).sample


def test_added_deltas_are_what_the_hanging_adapter_computes(
    components: Components, tuned: tuple[Path, torch.nn.Module]
) -> None:
    folder, hanging = tuned
    merged = bare_backbone(components.unet).eval()
    before = forward(merged)
    add_deltas(merged, read_adapter(folder).deltas, folder)
    assert (forward(merged) - before).abs().max() > 0.01
    torch.testing.assert_close(forward(merged), forward(hanging), atol=1e-5, rtol=1e-4)
    with adapter_off(hanging):
        torch.testing.assert_close(forward(hanging), before)


def test_diffusers_loads_the_same_adapter(
    pipe: MagicVideoPipeline, tuned: tuple[Path, torch.nn.Module]
) -> None:
    folder, hanging = tuned
    parts = pipe.components
    stock = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=bare_backbone(parts.unet).eval(),
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.load_lora_weights(folder)
    torch.testing.assert_close(forward(stock.unet), forward(hanging), atol=1e-5, rtol=1e-4)


def test_adapter_of_t2i_leaves_the_shared_layers_alone(
    components: Components, tuned: tuple[Path, torch.nn.Module]
) -> None:
    adapted = copy.deepcopy(components)
    adapted.adapt(read_adapter(tuned[0]))
    for name, value in components.i2v_unet.state_dict().items():
        assert torch.equal(value, adapted.i2v_unet.state_dict()[name]), name
    assert adapted.t2i_unet is not None
    torch.testing.assert_close(forward(adapted.t2i_unet), forward(tuned[1]), atol=1e-5, rtol=1e-4)
    once = forward(adapted.t2i_unet)
    adapted.adapt(read_adapter(tuned[0]))  # a second round goes on from the first
    assert (forward(adapted.t2i_unet) - once).abs().max() > 0.01


def test_loaded_adapter_is_saved_with_the_pipeline(
    components: Components, small_config: PipelineConfig, tuned: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    plain = MagicVideoPipeline(components, small_config)
    plain.save_pretrained(tmp_path / "plain")
    adapted = MagicVideoPipeline.from_pretrained(str(tmp_path / "plain"), adapter=tuned[0])
    assert plain.digests("t2i", "combined") != adapted.digests("t2i", "combined")
    assert plain.digests("i2v", "combined") == adapted.digests("i2v", "combined")
    adapted.save_pretrained(tmp_path / "adapted")
    again = MagicVideoPipeline.from_pretrained(str(tmp_path / "adapted"))
    assert torch.equal(adapted.reference_image(PROMPT), again.reference_image(PROMPT))
    assert not torch.equal(adapted.reference_image(PROMPT), plain.reference_image(PROMPT))
    other = replace(
        small_config, t2i=replace(small_config.t2i, model="some/model"), checkpoint=str(tmp_path / "plain")
    )
    with pytest.raises(MagicVideoError, match=r"t2i\.model is 'some/model'"):
        MagicVideoPipeline.from_config(other, adapter=tuned[0])


def test_adapter_of_all_stages_changes_every_backbone(
    components: Components, tuned: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    (tmp_path / LORA_FILE).write_bytes((tuned[0] / LORA_FILE).read_bytes())
    adapted = copy.deepcopy(components)
    adapted.adapt(read_adapter(tmp_path / LORA_FILE))
    assert adapted.t2i_unet is None
    for unet in ("unet", "i2v_unet", "v2v_unet"):
        before, after = (getattr(parts, unet).get_submodule(LAYER).weight for parts in (components, adapted))
        assert not torch.equal(before, after)
    assert adapted.i2v_unet.get_submodule(LAYER).weight is adapted.v2v_unet.get_submodule(LAYER).weight


def test_motion_layers_reach_i2v_alone(components: Components, tmp_path: Path) -> None:
    adapted = copy.deepcopy(components)
    unet = copy.deepcopy(components.i2v_unet)
    for name, value in add_adapter(unet, rank=1, targets="attention", motion=True, seed=0).items():
        if "motion_modules" in name and "lora_B" in name:
            value.data.fill_(0.1)
    save_adapter(unet, tmp_path / "adapter", {"stages": "all"})
    adapted.adapt(read_adapter(tmp_path / "adapter"))
    layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(components.i2v_motion.state_dict()[layer], adapted.i2v_motion.state_dict()[layer])
    assert not torch.equal(components.i2v_unet.state_dict()[layer], adapted.i2v_unet.state_dict()[layer])
    assert torch.equal(components.v2v_unet.state_dict()[layer], adapted.v2v_unet.state_dict()[layer])


def test_target_layers_are_those_that_stages_share(components: Components) -> None:
    layers = target_layers(components.i2v_unet, "all", motion=False)
    image = dict(components.unet.named_modules())
    for name in layers:
        assert image[name] is components.i2v_unet.get_submodule(name)
    assert not any("motion" in name or "_ip" in name for name in layers)
    attention = set(target_layers(components.i2v_unet, "attention", motion=False))
    assert attention < set(layers)
    assert any("motion" in name for name in target_layers(components.i2v_unet, "attention", motion=True))


def test_alpha_scales_and_old_key_names_are_read(tmp_path: Path) -> None:
    state = {
        f"unet.{LAYER}.lora.down.weight": torch.eye(2, 4),
        f"unet.{LAYER}.lora.up.weight": torch.ones(3, 2),
        f"unet.{LAYER}.alpha": torch.tensor(1.0),
    }
    save_file(state, tmp_path / LORA_FILE)
    expected = 0.5 * torch.ones(3, 2) @ torch.eye(2, 4)  # alpha / rank = 1 / 2
    assert torch.equal(read_adapter(tmp_path).deltas[LAYER], expected)


def test_alpha_of_the_header_is_read(tmp_path: Path) -> None:
    state = {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 4), f"unet.{LAYER}.lora_B.weight": torch.ones(3, 2)}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}
    save_file(state, tmp_path / LORA_FILE, header)
    assert torch.equal(read_adapter(tmp_path).deltas[LAYER], torch.full((3, 4), 6.0))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"text_encoder.x.lora_A.weight": torch.ones(1, 1)}, "no LoRA of a UNet"),
        ({"lora_unet_mid_block_attn1.lora_down.weight": torch.ones(1, 1)}, "no LoRA of a UNet"),
        ({f"unet.{LAYER}.lora_A.weight": torch.ones(1, 1)}, "incomplete"),
        ({f"unet.{LAYER}.alpha": torch.ones(())}, "changes no layer"),
        (
            {
                f"unet.{LAYER}.lora_A.weight": torch.full((1, 1), torch.nan),
                f"unet.{LAYER}.lora_B.weight": torch.ones(1, 1),
            },
            "not finite",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, state: dict[str, torch.Tensor], words: str) -> None:
    save_file(state, tmp_path / LORA_FILE)
    with pytest.raises(MagicVideoError, match=words):
        read_adapter(tmp_path)


def test_adapter_of_another_model_changes_nothing(components: Components, tmp_path: Path) -> None:
    unet = bare_backbone(components.unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    fitting = torch.ones_like(unet.get_submodule(LAYER).weight)
    for layer, delta in (("mid_block.nowhere", fitting), (LAYER.replace("to_q", "to_k"), fitting[:1])):
        with pytest.raises(MagicVideoError, match="another model"):
            add_deltas(unet, {LAYER: fitting, layer: delta}, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_missing_adapter_and_unknown_stages_are_said(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="no adapter at"):
        read_adapter(tmp_path / "nowhere")
    state = {f"unet.{LAYER}.lora_A.weight": torch.ones(1, 1), f"unet.{LAYER}.lora_B.weight": torch.ones(1, 1)}
    save_file(state, tmp_path / LORA_FILE)
    (tmp_path / SETTINGS_FILE).write_text('{"stages": "vfi"}')
    with pytest.raises(MagicVideoError, match="unknown stages 'vfi'; known: t2i, all"):
        read_adapter(tmp_path)
