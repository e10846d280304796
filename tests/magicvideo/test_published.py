"""Published file formats: what other programs wrote loads here, whole or not at all, and no pickle runs code."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magicvideo.appearance import attach_appearance, export_appearance
from magicvideo.backbone import inflate
from magicvideo.config import I2VConfig, PipelineConfig, T2IConfig, V2VConfig, VFIConfig
from magicvideo.errors import MagicVideoError
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.presets import with_parts
from magicvideo.published import animatediff_scheduler, read_controlnet, read_motion_adapter, read_state
from magicvideo.sprites import architecture
from magicvideo.vfi.edsc import EDSC
from magicvideo.vfi.ema import EMAVFI
from magicvideo.vfi.interpolator import Interpolator
from magicvideo.vfi.vqgan import VQFlowNet

WIDTH = 32  # of text states and embeddings


def build_unet() -> UNet2DConditionModel:
    """Return Stable Diffusion 1.5's backbone with two narrow levels."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    )


def build_motion() -> MotionAdapter:
    adapter = MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1, motion_max_seq_length=32)
    return adapter.eval()


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    for parameter in controlnet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return controlnet.eval()


def animatediff_names(adapter: MotionAdapter) -> dict[str, torch.Tensor]:
    """Return an adapter's weights under the names of the original ``mm_*.ckpt``."""
    original = {}
    for name, value in adapter.state_dict().items():
        place = re.sub(r"(motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
        if place.endswith("pos_embed.pe"):
            for index in (0, 1):
                original[place.replace("pos_embed", f"attention_blocks.{index}.pos_encoder")] = value
            continue
        for ours, theirs in (
            ("norm1", "norms.0"),
            ("norm2", "norms.1"),
            ("norm3", "ff_norm"),
            ("attn1", "attention_blocks.0"),
            ("attn2", "attention_blocks.1"),
        ):
            place = place.replace(f".{ours}.", f".{theirs}.")
        original[place] = value
    return original


def controlnet_names(controlnet: ControlNetModel) -> dict[str, torch.Tensor]:
    """Return a ControlNet's weights under the names of the original ``control_*.pth``."""
    blocks = {"down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1"}
    blocks |= {"down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op"}
    blocks |= {"down_blocks.1.resnets.0": "input_blocks.3.0"}
    blocks |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    blocks |= {"mid_block.resnets.1": "middle_block.2", "controlnet_mid_block": "middle_block_out.0"}
    blocks |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    blocks |= {"controlnet_cond_embedding.conv_in": "input_hint_block.0", "conv_in": "input_blocks.0.0"}
    blocks |= {f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(6)}
    blocks |= {"controlnet_cond_embedding.conv_out": "input_hint_block.14"}
    blocks |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(4)}
    layers = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    layers |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    original = {}
    for name, value in controlnet.state_dict().items():
        ours = max((block for block in blocks if name.startswith(f"{block}.")), key=len)
        rest = name.removeprefix(f"{ours}.")
        if ".resnets." in f".{ours}":
            rest = layers[rest.split(".")[0]] + "." + rest.split(".")[1]
        original[f"control_model.{blocks[ours]}.{rest}"] = value
    return original


def published_text_encoder(folder: Path, vocabulary: int) -> None:
    """Write a text encoder with the key names of Stable Diffusion 1.5's file, its position numbers included."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=architecture.TEXT_LENGTH,
            eos_token_id=vocabulary - 1,
        )
    )
    encoder.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = {
        f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()
    }
    state["text_model.embeddings.position_ids"] = torch.arange(architecture.TEXT_LENGTH)[None]
    save_file(state, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small random weights, each in the format that its published counterpart has."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    sd = folder / "stable-diffusion"
    unet = build_unet()
    unet.save_pretrained(sd / "unet")
    tokenizer = architecture.write_tokenizer(sd / "tokenizer")
    published_text_encoder(sd / "text_encoder", len(tokenizer))
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    ).save_pretrained(sd / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            projection_dim=24,
        )
    ).save_pretrained(folder / "image_encoder")
    controlnet = build_controlnet(unet)
    controlnet.save_pretrained(folder / "controlnet")
    torch.save(controlnet_names(controlnet), folder / "control.pth")
    motion = build_motion()
    motion.save_pretrained(folder / "motion")
    original = {f"module.{name}": value for name, value in animatediff_names(motion).items()}
    torch.save({"state_dict": original}, folder / "mm.ckpt")
    backbone = inflate(unet, motion)
    attach_appearance(backbone, 24)
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in export_appearance(backbone).items():
        group, rest = name.split(".", 1)
        nested[group][rest] = value
    torch.save(nested, folder / "ip-adapter.bin")
    ema = EMAVFI(4, (1, 1, 1, 1, 1))
    torch.save({f"module.{name}": value for name, value in ema.state_dict().items()}, folder / "ours_t.pkl")
    return folder


@pytest.fixture
def config(weights: Path) -> PipelineConfig:
    """Return what ``--preset paper`` is, with small local weights and two steps a stage."""
    sd = weights / "stable-diffusion"
    parts = {
        **{name: f"{sd}:{name}" for name in ("vae", "tokenizer", "text_encoder", "unet")},
        "image_encoder": str(weights / "image_encoder"),
        "appearance": str(weights / "ip-adapter.bin"),
        "controlnet": str(weights / "control.pth"),
        "i2v_motion": str(weights / "mm.ckpt"),
        "v2v_motion": str(weights / "motion"),
        "ema": str(weights / "ours_t.pkl"),
    }
    return PipelineConfig(
        name="paper",
        parts=parts,
        t2i=T2IConfig(size=32, num_inference_steps=2),
        i2v=I2VConfig(size=32, num_frames=2, num_inference_steps=2, prior="matched", group_norm="per-frame"),
        v2v=V2VConfig(size=40, num_inference_steps=2, strength=0.5),
        vfi=VFIConfig(kind="ema"),
    )


def load(config: PipelineConfig) -> MagicVideoPipeline:
    return MagicVideoPipeline.from_config(config)


def test_a_pipeline_of_published_parts_runs_and_is_the_same_after_saving(
    config: PipelineConfig, weights: Path, tmp_path: Path
) -> None:
    pipe = load(config)
    result = pipe("a red star", progress=False)
    assert result.frames.shape == (4, 3, 40, 40)
    assert pipe.components.scheduler.config["beta_schedule"] == "linear"
    assert pipe.components.scheduler.config["timestep_spacing"] == "linspace"
    assert pipe.components.feature_extractor.crop_size["height"] == 32
    motion = MotionAdapter.from_pretrained(weights / "motion").state_dict()
    assert all(
        torch.equal(value, motion[name]) for name, value in pipe.components.i2v_motion.state_dict().items()
    )

    pipe.save_pretrained(tmp_path / "saved")
    again = MagicVideoPipeline.from_pretrained(str(tmp_path / "saved"))
    assert again.config.parts == {}
    for name, module in pipe.components.modules().items():
        state = again.components.modules()[name].state_dict()
        assert state.keys() == module.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    for stage in ("t2i", "i2v", "v2v", "vfi"):
        assert again.digests(stage, "ema") == pipe.digests(stage, "ema")
    assert again.digest() == pipe.digest()
    repeated = again("a red star", progress=False)
    assert torch.equal(repeated.frames, result.frames)
    assert [record.digest for record in repeated.records] == [record.digest for record in result.records]


def test_v2v_with_parts_of_its_own_leaves_i2v_as_it_was(config: PipelineConfig, weights: Path) -> None:
    # The last of the steps, at timestep 0, changes nothing: one alone would tell no videos apart.
    config = replace(config, v2v=replace(config.v2v, num_inference_steps=4))
    torch.manual_seed(5)
    backbone = inflate(build_unet(), build_motion())
    attach_appearance(backbone, 24)
    save_file(export_appearance(backbone), weights / "other.safetensors")
    build_controlnet(build_unet()).save_pretrained(weights / "other-controlnet")
    own = {
        "v2v_appearance": str(weights / "other.safetensors"),
        "v2v_controlnet": str(weights / "other-controlnet"),
    }
    shared = load(config)
    apart = load(with_parts(config, own))
    assert (
        apart.components.v2v_unet.down_blocks[0].resnets is apart.components.i2v_unet.down_blocks[0].resnets
    )
    one, two = shared("a red star", progress=False), apart("a red star", progress=False)
    again = apart("a blue circle", progress=False)  # V2V's encoder hung in the shared layers last
    expected = shared("a blue circle", progress=False)
    assert torch.equal(one.stages["i2v"], two.stages["i2v"])
    assert torch.equal(expected.stages["i2v"], again.stages["i2v"])
    assert (one.stages["v2v"] != two.stages["v2v"]).float().mean() > 0.1


def test_v2v_s_own_parts_survive_saving(config: PipelineConfig, weights: Path, tmp_path: Path) -> None:
    own = {"v2v_appearance": str(weights / "ip-adapter.bin"), "v2v_controlnet": str(weights / "controlnet")}
    pipe = load(with_parts(config, own))
    pipe.save_pretrained(tmp_path)
    again = MagicVideoPipeline.from_pretrained(str(tmp_path))
    assert again.components.v2v_controlnet is not None
    assert again.components.attentions.keys() == {"i2v", "v2v"}
    assert again.digest() == pipe.digest()


def test_all_missing_parts_are_named_with_their_source(config: PipelineConfig, tmp_path: Path) -> None:
    gone = {"controlnet": "nobody/controlnet-of-no-name", "i2v_motion": str(tmp_path / "mm.ckpt")}
    with pytest.raises(MagicVideoError) as caught:
        load(with_parts(config, gone))
    told = str(caught.value)
    assert "controlnet (nobody/controlnet-of-no-name)" in told
    assert f"i2v_motion ({tmp_path / 'mm.ckpt'})" in told
    assert "--part NAME=PATH" in told
    assert "\n" not in told


def test_parts_without_a_hub_id_are_named_with_where_they_come_from(config: PipelineConfig) -> None:
    combined = PipelineConfig.from_dict(config.to_dict() | {"vfi": {"kind": "combined"}})
    with pytest.raises(
        MagicVideoError, match=r"vqgan \(LDMVFI's .*ckpt, see https://github.com/danier97/LDMVFI\)"
    ):
        load(combined)
    pipe = load(config)
    with pytest.raises(MagicVideoError, match=r"vfi.kind 'edsc' needs the part edsc \(EDSC's EDSC_m.ckpt"):
        pipe("a red star", arm="vfi-edsc", progress=False)


def test_stable_diffusion_s_own_scheduler_is_refused(config: PipelineConfig, tmp_path: Path) -> None:
    scheduler = animatediff_scheduler()
    scheduler.from_config(scheduler.config, beta_schedule="scaled_linear").save_pretrained(tmp_path)
    with pytest.raises(
        MagicVideoError, match="beta_schedule='scaled_linear', but AnimateDiff motion modules need"
    ):
        load(with_parts(config, {"scheduler": str(tmp_path)}))


def test_original_motion_module_equals_the_diffusers_one(weights: Path) -> None:
    adapter = read_motion_adapter(weights / "mm.ckpt")
    expected = MotionAdapter.from_pretrained(weights / "motion")
    for name in ("motion_layers_per_block", "motion_max_seq_length", "use_motion_mid_block"):
        assert adapter.config[name] == expected.config[name]
    state = expected.state_dict()
    assert adapter.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in adapter.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen", "nan", "positions", "none"])
def test_motion_module_that_does_not_fit_lists_its_keys(weights: Path, tmp_path: Path, change: str) -> None:
    state = animatediff_names(MotionAdapter.from_pretrained(weights / "motion"))
    key = "mid_block.motion_modules.0.temporal_transformer.proj_in.weight"
    ours = "mid_block.motion_modules.0.proj_in.weight"
    match change:
        case "missing":
            del state[key]
        case "unexpected":
            state["lora.up"] = torch.zeros(1)
        case "misshapen":
            state[key] = state[key][:, :3]
        case "nan":
            state[key] = state[key] * float("nan")
        case "positions":
            first = next(name for name in state if name.endswith("pos_encoder.pe"))
            state[first] = state[first] + 1
        case "none":
            state = {"weight": torch.zeros(1)}
    torch.save(state, tmp_path / "mm.ckpt")
    expected = {
        "missing": f"missing: {ours}",
        "unexpected": "unexpected: lora.up",
        "misshapen": f"misshapen: {ours} ((64, 3) instead of (64, 64))",
        "nan": f"are not finite: {ours}",
        "positions": "are not AnimateDiff's sinusoids",
        "none": "is no AnimateDiff motion module",
    }
    with pytest.raises(MagicVideoError, match=re.escape(expected[change])):
        read_motion_adapter(tmp_path / "mm.ckpt")


def test_original_controlnet_equals_the_diffusers_one(weights: Path) -> None:
    controlnet = read_controlnet(weights / "control.pth", build_unet())
    expected = ControlNetModel.from_pretrained(weights / "controlnet").state_dict()
    assert controlnet.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in controlnet.state_dict().items())


def test_controlnet_that_does_not_fit_lists_its_keys(weights: Path, tmp_path: Path) -> None:
    state = read_state(weights / "control.pth")
    save_file({**state, "control_model.lora": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(MagicVideoError, match=r"unexpected: control_model\.lora"):
        read_controlnet(tmp_path / "more.safetensors", build_unet())
    del state["control_model.middle_block.1.proj_in.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(MagicVideoError, match=r"missing: mid_block\.attentions\.0\.proj_in\.weight"):
        read_controlnet(tmp_path / "less.safetensors", build_unet())
    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(MagicVideoError, match="is no original ControlNet"):
        read_controlnet(tmp_path / "none.safetensors", build_unet())


class Payload:
    """A pickle that writes a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["mm.ckpt", "ip.bin", "ours.pkl"])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    torch.save({"image_proj.proj.weight": torch.zeros(1), "x": Payload(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(
        MagicVideoError, match="is refused: it is damaged, or a pickle that holds more than tensors"
    ):
        read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"<html>sign in</html>", "damaged"),
        ({"x": {"y": 3}}, "holds more than tensors: x.y is a int"),
        ([torch.zeros(1)], "holds no named tensors but a list"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(MagicVideoError, match=message):
        read_state(path)


def test_a_damaged_safetensors_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"12345678garbage")
    with pytest.raises(MagicVideoError, match="damaged or no safetensors file"):
        read_state(tmp_path / "x.safetensors")
    with pytest.raises(MagicVideoError, match="there is no weight file"):
        read_state(tmp_path / "y.safetensors")


def test_edsc_as_published_is_an_arm(config: PipelineConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save({"model_state": EDSC().state_dict()}, tmp_path / "EDSC_m.ckpt")
    pipe = load(with_parts(config, {"edsc": str(tmp_path / "EDSC_m.ckpt")}))
    clips = {arm: pipe("a red star", arm=arm, progress=False) for arm in ("vfi-edsc", "vfi-ema", "vfi-blend")}
    assert {clip.frames.shape for clip in clips.values()} == {(4, 3, 40, 40)}
    assert len({clip.frames.numpy().tobytes() for clip in clips.values()}) == 3
    pipe.save_pretrained(tmp_path / "saved")
    again = MagicVideoPipeline.from_pretrained(str(tmp_path / "saved"), arm="vfi-edsc")
    assert torch.equal(again("a red star", progress=False).frames, clips["vfi-edsc"].frames)


@pytest.mark.slow
def test_ema_and_vqgan_as_published_make_the_combined_interpolator(
    config: PipelineConfig, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    vqgan = VQFlowNet()
    state = {f"first_stage_model.{name}": value for name, value in vqgan.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vqflow.ckpt")
    combined = PipelineConfig.from_dict(config.to_dict() | {"vfi": {"kind": "combined"}})
    pipe = load(with_parts(combined, {"vqgan": str(tmp_path / "vqflow.ckpt")}))
    model = pipe.components.interpolator
    assert isinstance(model, Interpolator)
    assert all(
        torch.equal(value, model.generator.state_dict()[key]) for key, value in vqgan.state_dict().items()
    )
    assert pipe("a red star", progress=False).frames.shape == (4, 3, 40, 40)


def test_another_text_to_image_model_is_saved_with_the_checkpoint(
    config: PipelineConfig, weights: Path, tmp_path: Path
) -> None:
    own = load(config)
    parts = own.components
    StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=UNet2DConditionModel.from_pretrained(weights / "stable-diffusion" / "unet"),
        scheduler=parts.scheduler,
        feature_extractor=parts.feature_extractor,
        safety_checker=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "t2i")
    values = config.to_dict()
    values["t2i"]["model"] = str(tmp_path / "t2i")
    pipe = load(PipelineConfig.from_dict(values))
    result = pipe("a red star", progress=False)
    assert torch.equal(
        result.frames, own("a red star", progress=False).frames
    )  # the same weights by another way
    pipe.save_pretrained(tmp_path / "saved")
    (tmp_path / "t2i").rename(tmp_path / "moved away")
    again = MagicVideoPipeline.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(again("a red star", progress=False).frames, result.frames)
