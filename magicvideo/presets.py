"""Named configurations, and the ablation arms as named changes to one."""

from collections.abc import Callable
from pathlib import Path

from magicvideo.config import PipelineConfig, change
from magicvideo.errors import MagicVideoError

SPRITES = PipelineConfig(name="sprites", checkpoint="embedded:sprites")
PRESETS = {"sprites": SPRITES}

ARMS: dict[str, Callable[[PipelineConfig], PipelineConfig]] = {
    "full": lambda config: config,
    "-prior": lambda config: change(config, "i2v", prior="none"),
    "-controlnet": lambda config: change(
        change(config, "i2v", controlnet_scale=0.0), "v2v", controlnet_scale=0.0
    ),
    "-appearance": lambda config: change(
        change(config, "i2v", appearance_scale=0.0), "v2v", appearance_scale=0.0
    ),
    "-v2v": lambda config: change(config, "v2v", enabled=False),
    "-vfi": lambda config: change(config, "vfi", kind="repeat"),
    "vfi-blend": lambda config: change(config, "vfi", kind="blend"),
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


def ablate(config: PipelineConfig, arm: str) -> PipelineConfig:
    """Return ``config`` with the change that ``arm`` names; every arm ends at the same size, rate and length.

    Raises:
        MagicVideoError: an unknown arm; the known ones are listed.
    """
    if arm not in ARMS:
        raise MagicVideoError(f"unknown arm {arm!r}; known: {', '.join(ARMS)}")
    return ARMS[arm](config)
