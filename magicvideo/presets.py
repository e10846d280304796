"""Named configurations, and the ablation arms as named changes to one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from magicvideo.config import I2VConfig, PipelineConfig, T2IConfig, V2VConfig, VFIConfig, change
from magicvideo.errors import MagicVideoError

# The noise leans as it did in training: the schedule's own share of the signal and `LEANT_ON.noise_lean` of the rest.
SPRITES = PipelineConfig(
    name="sprites",
    checkpoint="embedded:sprites",
    i2v=I2VConfig(prior_strength=0.29, guidance_on="text"),
)

# The paper's sizes and lengths with the closest weights that are published. It states neither steps, guidance,
# strength, prior coefficient nor frame rate: those are ours. Its backbone is Stable Diffusion 1.5 tuned on human
# preference, which the DPO weights are too. Nobody published motion modules for 1048 pixels or a ControlNet on the
# picture itself: both stages share AnimateDiff's, which were trained with per-frame normalisation, and the tile
# ControlNet stands in. The interpolator's weights have no hub id; where they come from is said when they are
# missing.
PAPER = PipelineConfig(
    name="paper",
    parts={
        "vae": "stabilityai/sd-vae-ft-mse",
        "tokenizer": "stable-diffusion-v1-5/stable-diffusion-v1-5:tokenizer",
        "text_encoder": "stable-diffusion-v1-5/stable-diffusion-v1-5:text_encoder",
        "unet": "mhdang/dpo-sd1.5-text2image-v1:unet",
        "image_encoder": "h94/IP-Adapter:models/image_encoder",
        "appearance": "h94/IP-Adapter:models/ip-adapter_sd15.safetensors",
        "controlnet": "lllyasviel/control_v11f1e_sd15_tile",
        "i2v_motion": "guoyww/animatediff-motion-adapter-v1-5-2",
        "v2v_motion": "guoyww/animatediff-motion-adapter-v1-5-2",
    },
    t2i=T2IConfig(
        model="stabilityai/stable-diffusion-xl-base-1.0",
        size=1024,
        num_inference_steps=30,
        guidance_scale=5.0,
    ),
    i2v=I2VConfig(
        size=600,
        num_frames=32,
        num_inference_steps=25,
        guidance_scale=7.5,
        prior="matched",
        group_norm="per-frame",
    ),
    v2v=V2VConfig(
        size=1048, strength=0.5, num_inference_steps=25, guidance_scale=7.5, group_norm="per-frame"
    ),
    vfi=VFIConfig(kind="combined", factor=3),
    keyframe_fps=10,
)
PRESETS = {"sprites": SPRITES, "paper": PAPER}


def _both(config: PipelineConfig, **values: object) -> PipelineConfig:
    """Change I2V and V2V alike."""
    return change(change(config, "i2v", **values), "v2v", **values)


ARMS: dict[str, Callable[[PipelineConfig], PipelineConfig]] = {
    "full": lambda config: config,
    "-prior": lambda config: change(config, "i2v", prior="none"),
    "-controlnet": lambda config: _both(config, controlnet_scale=0.0),
    "-appearance": lambda config: _both(config, appearance_scale=0.0),
    "-i2v": lambda config: change(config, "i2v", enabled=False),
    "-v2v": lambda config: change(config, "v2v", enabled=False),
    "-vfi": lambda config: change(config, "vfi", kind="repeat"),
    "vfi-blend": lambda config: change(config, "vfi", kind="blend"),
    "vfi-ema": lambda config: change(config, "vfi", kind="ema"),
    "vfi-edsc": lambda config: change(config, "vfi", kind="edsc"),
    "group-norm-joint": lambda config: _both(config, group_norm="joint"),
    "group-norm-per-frame": lambda config: _both(config, group_norm="per-frame"),
}


def preset(name: str) -> PipelineConfig:
    """Return a preset by name.

    Raises:
        MagicVideoError: an unknown name; the known ones are listed.
    """
    if name not in PRESETS:
        raise MagicVideoError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def check_source(name: str) -> None:
    """Refuse a name that is neither a preset, nor a folder, nor of the form of a hub id.

    Raises:
        MagicVideoError: the known presets are listed.
    """
    if name not in PRESETS and not Path(name).is_dir() and "/" not in name:
        raise MagicVideoError(
            f"unknown preset {name!r}; known: {', '.join(PRESETS)}, or give a checkpoint folder or hub id"
        )


def with_parts(config: PipelineConfig, parts: Mapping[str, str]) -> PipelineConfig:
    """Return ``config`` with some parts taken from elsewhere.

    Raises:
        MagicVideoError: an unknown part; the known ones are listed.
    """
    return replace(config, parts={**config.parts, **parts})


def ablate(config: PipelineConfig, arm: str) -> PipelineConfig:
    """Return ``config`` with the change that ``arm`` names; every arm ends at the same size, rate and length.

    Raises:
        MagicVideoError: an unknown arm; the known ones are listed.
    """
    if arm not in ARMS:
        raise MagicVideoError(f"unknown arm {arm!r}; known: {', '.join(ARMS)}")
    return ARMS[arm](config)
