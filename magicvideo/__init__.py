"""MagicVideo-V2: text to image, image to video, video to video, frame interpolation."""

from importlib import import_module
from typing import Any

__all__ = ["MagicVideoPipeline", "PipelineConfig", "VideoResult", "write_video"]

_HOMES = {
    "MagicVideoPipeline": "pipeline",
    "PipelineConfig": "config",
    "VideoResult": "pipeline",
    "write_video": "video",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing the package alone stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
