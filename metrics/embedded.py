"""The embedded video-text model: a small convolutional video tower and a small text transformer.

It was trained on the sprites domain only (recipe and curve lie beside the weights). Its video embedding is
the feature of the embedded Fréchet video distance, and its cosine with the text embedding is the video-text
score.
"""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metrics.errors import WeightsError

WEIGHTS = Path(__file__).parent / "weights"
VIDEO_WEIGHTS = WEIGHTS / "video"
CLIP_WEIGHTS = WEIGHTS / "clip"
# What captions of the sprites domain can say; one value of a group excludes the others.
ATTRIBUTES: tuple[tuple[str, ...], ...] = (
    ("small", "large"),
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    ("circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "cross"),
    (
        "moving left", "moving right", "moving up", "moving down",
        "spinning", "growing", "shrinking", "standing still",
    ),
    ("black", "grey", "snow", "sunset", "ocean", "meadow"),
)  # fmt: skip
VIDEO_CONFIG: dict[str, Any] = {
    "frames": 8,
    "size": 64,
    "embed_dim": 128,
    "stem": [16, 32, 64],
    "motion": [48, 56],
    "look": [80, 72],
    "text": {"context_length": 24, "width": 48, "heads": 4, "layers": 2},
}


class VideoTower(nn.Module):
    """Map clips to features of how things move and of what they look like.

    Convolutions on each frame feed two branches. Of the motion branch, one convolution over neighbouring frames
    gives a 4 x 4 map for each, and then the row of frames is read by linear layers with a weight for every place
    and time: averages over time would not tell a clip from the same clip played backwards. The look branch
    keeps the strongest answer of each shape detector in the left and in the right half, averaged over time.
    """

    def __init__(
        self, frames: int, size: int, stem: list[int], motion: list[int], look: list[int], embed_dim: int
    ) -> None:
        super().__init__()
        over_frames, per_frame = motion
        self.frame = nn.Sequential(*_convolutions([3, *stem], stride=2)).to(memory_format=torch.channels_last)
        conv = nn.Conv3d(stem[-1], over_frames, 3, (1, 2, 2), 1, bias=False)
        self.motion = nn.Sequential(conv, nn.BatchNorm3d(over_frames), nn.ReLU())
        self.motion.to(memory_format=torch.channels_last_3d)
        side = size // 2 ** (len(stem) + 1)
        place = nn.Linear(over_frames * side**2, per_frame)
        self.place = nn.Sequential(place, nn.LayerNorm(per_frame), nn.ReLU())
        self.look = nn.Sequential(*_convolutions([stem[-1], *look], stride=1), nn.AdaptiveMaxPool2d((1, 2)))
        self.look.to(memory_format=torch.channels_last)
        self.proj = nn.Linear(per_frame * frames + 2 * look[-1], embed_dim)

    def forward(self, videos: Tensor) -> Tensor:
        """Return ``(B, D)`` float32 features of uint8 or [0, 255] float videos ``(B, T, 3, H, W)``."""
        x = videos.flatten(0, 1).float() / 127.5 - 1
        x = self.frame(x.contiguous(memory_format=torch.channels_last))
        look = self.look(x).flatten(1).unflatten(0, videos.shape[:2]).mean(1)
        x = x.unflatten(0, videos.shape[:2]).transpose(1, 2)
        x = self.motion(x.contiguous(memory_format=torch.channels_last_3d))
        motion = self.place(x.transpose(1, 2).flatten(2)).flatten(1)
        return self.proj(torch.cat([motion, look], 1)).float()


def _convolutions(channels: list[int], stride: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return layers


class VideoTextModel(nn.Module):
    """Embed clips and captions into one space."""

    def __init__(self, config: dict[str, Any], vocab_size: int) -> None:
        from open_clip.transformer import TextTransformer

        super().__init__()
        self.config = config
        shape = ("frames", "size", "stem", "motion", "look", "embed_dim")
        self.video = VideoTower(**{key: config[key] for key in shape})
        self.text = TextTransformer(vocab_size=vocab_size, output_dim=config["embed_dim"], **config["text"])
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_video(self, videos: Tensor) -> Tensor:
        """Return unit ``(B, D)`` embeddings of uint8 ``(B, T, 3, S, S)`` clips of the config's T and S."""
        return nn.functional.normalize(self.video(videos), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit ``(B, D)`` embeddings of token ids ``(B, context_length)``."""
        return nn.functional.normalize(self.text(tokens).float(), dim=-1)


def load_video_text_model(folder: Path = VIDEO_WEIGHTS) -> tuple[VideoTextModel, Any]:
    """Return the video-text model of a weight folder, in eval mode, and its tokenizer.

    Raises:
        WeightsError: a file of the folder is missing, damaged or does not fit the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = load_tokenizer(folder, config["text"]["context_length"])
        model = VideoTextModel(config, tokenizer.vocab_size)
        state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
        model.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"the video-text model in {folder} cannot be loaded ({error}); reinstall the package or train it "
            "again with `magicvideo train metrics`"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def load_tokenizer(folder: Path, context_length: int) -> Any:
    """Return open_clip's tokenizer on the byte-pair table ``bpe.txt.gz`` of a weight folder."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"), context_length=context_length)


def known_words(folder: Path) -> frozenset[str]:
    """Return the words an embedded model was trained on."""
    return frozenset(json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["words"])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
