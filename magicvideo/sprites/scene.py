"""What a sprites clip shows: its objects, their motion, the background, and the caption that says so."""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magicvideo.errors import MagicVideoError

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("black", "grey", "snow", "sunset", "ocean", "meadow")
SIZES = ("small", "large")
MOTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "spinning",
    "growing",
    "shrinking",
    "standing still",
)
DIRECTIONS = {"moving left": (-1, 0), "moving right": (1, 0), "moving up": (0, -1), "moving down": (0, 1)}
RADII = {"small": 0.15, "large": 0.24}  # in units of the frame's side
HELD_OUT_TENTH = 0  # one combination in ten is never trained on; which ones was fixed on the first day
FRUITLESS = 6000  # draws without a new caption after which there is none: of 600, one hides that long 1 time in 20,000

Split = Literal["train", "held_out", "any"]


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One object: its attributes and the path of its centre, radius and angle over the clip.

    Lengths are in units of the frame's side, ``x`` to the right and ``y`` downwards, angles in radians
    (clockwise as seen); each of ``start`` and ``end`` is ``(x, y, radius, angle)`` at time 0 and 1.
    """

    size: str
    colour: str
    shape: str
    motion: str
    start: tuple[float, float, float, float]
    end: tuple[float, float, float, float]

    @property
    def phrase(self) -> str:
        """Describe the object and its motion, e.g. ``a large red star spinning``."""
        return f"a {self.size} {self.colour} {self.shape} {self.motion}"

    def pose(self, times: np.ndarray) -> np.ndarray:
        """Return ``(T, 4)`` rows ``x, y, radius, angle`` at ``times`` ``(T,)`` in [0, 1]."""
        weight = np.asarray(times, np.float64)[:, None]
        return (1 - weight) * np.array(self.start) + weight * np.array(self.end)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip's content; ``objects[0]`` is drawn in front."""

    objects: tuple[Sprite, ...]
    background: str
    shade: float = 1.0  # brightness of the background, 0.9 to 1.1

    @property
    def caption(self) -> str:
        """Return the prompt that describes the scene."""
        article = "an" if self.background[0] in "aeiou" else "a"
        objects = " and ".join(item.phrase for item in self.objects)
        return f"{objects} on {article} {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether any object's combination of attributes belongs to the held-out tenth."""
        return any(
            is_held_out(item.size, item.colour, item.shape, item.motion, self.background)
            for item in self.objects
        )


def is_held_out(size: str, colour: str, shape: str, motion: str, background: str) -> bool:
    """Tell whether a combination of attributes is kept from all training (a fixed hash decides)."""
    key = "|".join((size, colour, shape, motion, background)).encode()
    return hashlib.sha256(key).digest()[0] % 10 == HELD_OUT_TENTH


def sample_scene(
    rng: np.random.Generator,
    *,
    split: Split = "train",
    num_objects: int | None = None,
    size: str | None = None,
    colour: str | None = None,
    shape: str | None = None,
    motion: str | None = None,
    background: str | None = None,
) -> Scene:
    """Draw a scene; attributes given are kept (for the first object), the others are uniform.

    Args:
        rng: the only source of randomness.
        split: ``train`` avoids held-out combinations, ``held_out`` has only them, ``any`` ignores the split.
        num_objects: 1 or 2; by default two objects in one scene of six.

    Raises:
        ValueError: an unknown attribute, or a fully given combination that is not in ``split``.
    """
    _check_attributes(size, colour, shape, motion, background)
    for _ in range(2000):
        count = num_objects if num_objects is not None else 1 + int(rng.random() < 1 / 6)
        ground = background or _pick(rng, BACKGROUNDS)
        objects = tuple(
            _sample_sprite(
                rng,
                size=(size if index == 0 else None) or _pick(rng, SIZES if count == 1 else ("small",)),
                colour=(colour if index == 0 else None) or _pick(rng, COLOURS),
                shape=(shape if index == 0 else None) or _pick(rng, SHAPES),
                motion=(motion if index == 0 else None) or _pick(rng, MOTIONS),
                slot=(index, count),
            )
            for index in range(count)
        )
        scene = Scene(objects=objects, background=ground, shade=float(rng.uniform(0.92, 1.08)))
        distinct = len({(item.colour, item.shape) for item in objects}) == count
        wanted = split == "any" or scene.held_out == (split == "held_out")
        if distinct and wanted:
            return scene
    raise ValueError(f"no {split} scene has size={size} colour={colour} shape={shape} motion={motion}")


def distinct_scenes(count: int, draw: Callable[[int, int], Scene]) -> list[Scene]:
    """Return the first ``count`` scenes that ``draw`` gives, no caption twice.

    Args:
        count: how many.
        draw: is given the number of the draw and how many scenes have been found.

    Raises:
        MagicVideoError: thousands of draws brought no other caption.
    """
    found: dict[str, Scene] = {}
    fruitless = 0
    for index in itertools.count():
        if len(found) == count:
            break
        scene = draw(index, len(found))
        fruitless = fruitless + 1 if scene.caption in found else 0
        found.setdefault(scene.caption, scene)
        if fruitless == FRUITLESS:
            raise MagicVideoError(f"there are {len(found)} such prompts, not {count}; ask for fewer")
    return list(found.values())


def compose_scene(rng: np.random.Generator, objects: Sequence[Mapping[str, str]], background: str) -> Scene:
    """Draw what a caption leaves open (places, paths, shade) for one or two objects given by their attributes.

    Args:
        rng: the only source of randomness.
        objects: ``size``, ``colour``, ``shape`` and ``motion`` of each; of two, the left one first.
        background: a word of ``BACKGROUNDS``.

    Raises:
        ValueError: an unknown attribute.
    """
    for item in objects:
        _check_attributes(item["size"], item["colour"], item["shape"], item["motion"], background)
    sprites = (_sample_sprite(rng, **item, slot=(index, len(objects))) for index, item in enumerate(objects))
    return Scene(objects=tuple(sprites), background=background, shade=float(rng.uniform(0.92, 1.08)))


def _check_attributes(
    size: str | None, colour: str | None, shape: str | None, motion: str | None, background: str | None
) -> None:
    known = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "background": BACKGROUNDS}
    given = {"size": size, "colour": colour, "shape": shape, "motion": motion, "background": background}
    for name, value in given.items():
        if value is not None and value not in known[name]:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known[name])}")


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _sample_sprite(
    rng: np.random.Generator, *, size: str, colour: str, shape: str, motion: str, slot: tuple[int, int]
) -> Sprite:
    """Place one object; with two, each keeps to its half of the frame, left or right."""
    index, count = slot
    radius = RADII[size] * rng.uniform(0.9, 1.1) * (1.0 if count == 1 else 0.85)
    centre = 0.5 if count == 1 else (0.27 if index == 0 else 0.73)
    x = centre + rng.uniform(-0.1, 0.1) * (1.0 if count == 1 else 0.3)
    y = 0.5 + rng.uniform(-0.1, 0.1)
    angle = float(rng.uniform(-0.25, 0.25))
    start, end = [x, y, radius, angle], [x, y, radius, angle]
    if motion in DIRECTIONS:
        dx, dy = DIRECTIONS[motion]
        room = 0.5 if count == 1 or dx == 0 else 0.2
        travel = room * rng.uniform(0.8, 1.1)
        for end_point, sign in ((start, -0.5), (end, 0.5)):
            end_point[0] += sign * travel * dx
            end_point[1] += sign * travel * dy
    elif motion == "spinning":
        end[3] += 2 * math.pi * rng.uniform(0.6, 0.9)
    elif motion in ("growing", "shrinking"):
        small, big = radius * 0.55, radius * 1.35
        start[2], end[2] = (small, big) if motion == "growing" else (big, small)
    return Sprite(
        size=size,
        colour=colour,
        shape=shape,
        motion=motion,
        start=(start[0], start[1], start[2], start[3]),
        end=(end[0], end[1], end[2], end[3]),
    )
