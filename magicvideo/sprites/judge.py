"""The judge of sprites videos: which objects, colours, motions and background a clip shows, by a trained classifier.

It has never seen a generated frame and knows nothing of the prompt, so what it reads from a video can be held
against what the prompt asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from magicvideo.sprites.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Scene

SIDE = 128  # pixels the judge looks at
FRAMES = 6  # of a clip, from its first to its last
SLOTS = 2  # an object alone, or the left one, is in slot 0; the right one in slot 1
ABSENT = -100  # target of an attribute that a scene does not have: what cross_entropy ignores
ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}


@dataclass(frozen=True)
class Verdicts:
    """What the judge reads, as indices into the vocabulary of ``magicvideo.sprites.scene``.

    Attributes:
        background: ``(B,)``.
        count: ``(B,)`` objects seen, 1 or 2.
        objects: ``size``, ``colour``, ``shape`` and (for clips) ``motion``, each ``(B, 2)``, one column a slot.
    """

    background: Tensor
    count: Tensor
    objects: dict[str, Tensor]


class SpritesJudge(ModelMixin, ConfigMixin):
    """A small convolutional classifier with one attention map per object slot; 0.15 M parameters."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, widths: Sequence[int] = (16, 32, 64, 80), code: int = 20) -> None:
        """Build it untrained.

        Args:
            widths: channels at 1/2, 1/4, 1/8 and again 1/8 of the side.
            code: numbers that each frame and slot hand to the motion head.
        """
        super().__init__()
        a, b, c, d = widths
        self.trunk = nn.Sequential(
            *_layer(3, a, 5, 2),
            *_layer(a, b, 3, 2),
            *_layer(b, c, 3, 2),
            *_layer(c, d, 3, 1),
            *_layer(d, d, 3, 1),
        )
        self.attention = nn.Conv2d(d, SLOTS, 1)
        self.background = nn.Linear(d, len(BACKGROUNDS))
        self.second = nn.Linear(d, 1)
        heads = {name: len(ATTRIBUTES[name]) for name in ("size", "colour", "shape")}
        self.heads = nn.ModuleDict({name: nn.Linear(d, size) for name, size in heads.items()})
        self.describe = nn.Linear(d, code)
        self.motion = nn.Sequential(
            nn.Linear(FRAMES * (code + 3), 96), nn.SiLU(), nn.Linear(96, len(MOTIONS))
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Return logits of clips ``(B, T, 3, 128, 128)`` in [0, 1], frame by frame but for the motion.

        Returns:
            ``background`` ``(B, T, 6)``, ``second`` ``(B, T)`` (is there a second object), ``size``, ``colour``
            and ``shape`` ``(B, T, 2, n)``, and for clips of six frames ``motion`` ``(B, 2, 8)``.
        """
        count, length = frames.shape[:2]
        features = self.trunk(frames.flatten(0, 1) * 2 - 1).unflatten(0, (count, length))  # (B, T, D, h, w)
        overall = features.mean((3, 4))
        flat = features.flatten(3)
        weights = self.attention(features.flatten(0, 1)).flatten(2).unflatten(0, (count, length)).softmax(-1)
        slots = torch.einsum("btsp,btdp->btsd", weights, flat)
        logits = {"background": self.background(overall), "second": self.second(overall)[..., 0]}
        logits |= {name: head(slots) for name, head in self.heads.items()}
        if length == FRAMES:
            place = torch.einsum("btsp,pc->btsc", weights, _grid(features).to(weights.dtype))
            spread = (weights * weights).sum(-1, keepdim=True).clamp_min(1e-6).log() / 4
            told = torch.cat([self.describe(slots), 4 * (place - 0.5), spread], -1)  # (B, T, S, code + 3)
            logits["motion"] = self.motion(told.transpose(1, 2).flatten(2))
        return logits

    @torch.inference_mode()
    def judge(self, frames: Tensor) -> Verdicts:
        """Judge clips, or single images given as clips of one frame (which have no motion).

        Args:
            frames: ``(B, T, 3, H, W)`` uint8.
        """
        length = frames.shape[1]
        picked = torch.linspace(0, length - 1, FRAMES).round().long() if length > 1 else torch.zeros(1).long()
        logits = {key: value.cpu() for key, value in self(prepare(frames[:, picked]).to(self.device)).items()}
        background = logits["background"].log_softmax(-1).mean(1).argmax(-1)
        objects = {
            name: logits[name].log_softmax(-1).mean(1).argmax(-1) for name in ("size", "colour", "shape")
        }
        if "motion" in logits:
            objects["motion"] = logits["motion"].argmax(-1)
        return Verdicts(background, 1 + (logits["second"].mean(1) > 0).long(), objects)


def load_judge(folder: Path | None = None) -> SpritesJudge:
    """Load the judge of the package, or one from a folder that its training wrote."""
    folder = folder or Path(str(resources.files("magicvideo") / "weights" / "sprites" / "judge"))
    judge = SpritesJudge.from_pretrained(folder, torch_dtype=torch.float32)
    return judge.eval().requires_grad_(False)


def prepare(frames: Tensor) -> Tensor:
    """Bring uint8 clips ``(B, T, 3, H, W)`` to the judge's side and [0, 1]."""
    flat = frames.flatten(0, 1).float() / 255
    if flat.shape[-1] != SIDE or flat.shape[-2] != SIDE:
        flat = F.interpolate(flat, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return flat.unflatten(0, frames.shape[:2]).clamp(0, 1)


def targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return what ``forward`` should say of scenes: ``(B,)`` and ``(B, 2)`` indices, ``ABSENT`` in an empty slot."""
    rows = {name: torch.full((len(scenes), SLOTS), ABSENT) for name in ATTRIBUTES}
    for index, scene in enumerate(scenes):
        for slot, item in enumerate(scene.objects):
            for name, words in ATTRIBUTES.items():
                rows[name][index, slot] = words.index(getattr(item, name))
    rows["background"] = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    rows["second"] = torch.tensor([len(scene.objects) - 1 for scene in scenes])
    return rows


def agreement(verdicts: Verdicts, scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return per scene whether the judge reads what the scene says: bool ``(B,)`` by attribute.

    An object's attribute is right if it is right for every object of the scene; ``object`` asks for shape and
    colour both.
    """
    wanted = targets(scenes)
    right = {"background": verdicts.background == wanted["background"]}
    for name, said in verdicts.objects.items():
        right[name] = ((said == wanted[name]) | (wanted[name] == ABSENT)).all(1)
    right["object"] = right["shape"] & right["colour"]
    return right


def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return convolution, nn.GroupNorm(8, outputs), nn.SiLU()


def _grid(features: Tensor) -> Tensor:
    """Return the centres ``(h * w, 2)`` of the feature map's cells, x and y in [0, 1]."""
    height, width = features.shape[-2:]
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x.flatten(), y.flatten()], -1).to(features.device)
