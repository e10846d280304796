"""A random small checkpoint of the sprites architecture, in the layout of the embedded one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from magicvideo.appearance import attach_appearance, export_appearance
from magicvideo.components import Components
from magicvideo.config import I2VConfig, PipelineConfig, T2IConfig, V2VConfig
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.sprites import architecture
from magicvideo.training.autoencoder import build_autoencoder
from magicvideo.training.sprites import build_feature_extractor
from magicvideo.training.vfi import build_interpolator


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads spin against each other under load."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_config() -> PipelineConfig:
    """Return a configuration of two steps a stage, three keyframes and the smallest sizes."""
    return PipelineConfig(
        name="small",
        checkpoint="none",
        t2i=T2IConfig(size=48, num_inference_steps=2),
        i2v=I2VConfig(size=32, num_frames=3, num_inference_steps=2),
        v2v=V2VConfig(size=48, num_inference_steps=2, strength=0.5),
    )


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Return random parts with an attached appearance encoder; the motion modules are not zero."""
    from safetensors.torch import save_file

    folder: Path = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    tokenizer = architecture.write_tokenizer(folder / "tokenizer")
    unet = architecture.build_unet()
    parts = Components(
        vae=build_autoencoder(),
        tokenizer=tokenizer,
        text_encoder=architecture.build_text_encoder(len(tokenizer)),
        unet=unet,
        scheduler=architecture.build_scheduler(),
        image_encoder=architecture.build_image_encoder(),
        feature_extractor=build_feature_extractor(),
        controlnet=architecture.build_controlnet(unet),
        i2v_motion=architecture.build_motion_adapter(),
        v2v_motion=architecture.build_motion_adapter(),
        interpolator=build_interpolator(),
    )
    for layer in (*parts.controlnet.controlnet_down_blocks, parts.controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.02)
    attach_appearance(parts.i2v_unet, architecture.IMAGE_DIM)
    save_file(export_appearance(parts.i2v_unet), folder / "appearance.safetensors")
    parts.attach(folder / "appearance.safetensors")
    for module in parts.modules().values():
        module.eval().requires_grad_(False)
    return parts


@pytest.fixture
def pipe(components: Components, small_config: PipelineConfig) -> MagicVideoPipeline:
    """Return a fresh pipeline (an empty stage cache) over the random parts."""
    return MagicVideoPipeline(components, replace(small_config))
