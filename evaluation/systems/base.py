"""What the harness asks of a text-to-video system."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Clip:
    """A video as a system hands it over: ``frames`` ``(T, H, W, 3)`` uint8 sRGB."""

    frames: np.ndarray
    fps: Fraction


class System(Protocol):
    """A system, or one arm of it: the same digest, prompt and seed give the same video."""

    @property
    def name(self) -> str:
        """Name in the database, studies and reports, e.g. ``sprites:-v2v``."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """All that shapes the videos, as plain JSON values."""
        ...

    @property
    def config_digest(self) -> str:
        """Hexadecimal digest of everything that shapes the videos."""
        ...

    @property
    def device(self) -> str:
        """Where the videos are computed, e.g. ``cpu``."""
        ...

    def generate(self, prompt: str, seed: int) -> Clip:
        """Make the video of ``prompt``."""
        ...
