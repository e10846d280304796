"""Ground truth of the sprites domain as a system: the rendered clip its prompt describes.

It bounds from above what a model can reach on sprites prompts, so its row makes the others readable.
"""

import hashlib
import json
import re
from fractions import Fraction
from typing import Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.systems.base import Clip
from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    compose_scene,
    sample_scene,
)

_OBJECT = re.compile(
    rf"an? (?P<size>{'|'.join(SIZES)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
    rf" (?P<motion>{'|'.join(MOTIONS)})"
)
_PROMPT = re.compile(
    rf"(?P<objects>.+) on an? (?P<background>{'|'.join(BACKGROUNDS)}) background",
)


class SpritesTruth:
    """Render the true clip of a sprites prompt; the seed draws what the prompt leaves open."""

    device = "cpu"

    def __init__(
        self,
        *,
        size: int = 264,
        num_frames: int = 94,
        fps: Fraction = Fraction(30),
        name: str = "sprites:truth",
    ) -> None:
        self.name = name
        self.size = size
        self.num_frames = num_frames
        self.fps = fps

    @property
    def config(self) -> dict[str, Any]:
        """Geometry of the clips."""
        return {"renderer": 1, "size": self.size, "num_frames": self.num_frames, "fps": str(self.fps)}

    @property
    def config_digest(self) -> str:
        """Digest of the geometry."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def generate(self, prompt: str, seed: int) -> Clip:
        """Render the clip.

        Raises:
            EvaluationError: the prompt is not a sprites caption.
        """
        scene = scene_of(prompt, seed)
        return Clip(render(scene, frame_times(self.num_frames), self.size).video, self.fps)


def scene_of(prompt: str, seed: int) -> Scene:
    """Draw a scene whose caption is ``prompt``.

    Raises:
        EvaluationError: the prompt is not a sprites caption of one or two objects.
    """
    found = _PROMPT.fullmatch(" ".join(prompt.split()))
    objects = [_OBJECT.fullmatch(phrase) for phrase in found["objects"].split(" and ")] if found else []
    if found is None or None in objects or len(objects) > 2:
        raise EvaluationError(
            f"{prompt!r} is no sprites prompt; expected one or two objects in the form "
            "'a large red star spinning on a sunset background'"
        )
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4])])
    attributes = [item.groupdict() for item in objects if item is not None]
    if len(attributes) == 1:
        return sample_scene(rng, split="any", num_objects=1, background=found["background"], **attributes[0])
    return compose_scene(rng, attributes, found["background"])
