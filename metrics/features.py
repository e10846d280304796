"""Feature extractors of whole clips, by name, each with its preprocessing and the digest of its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from metrics.embedded import VIDEO_WEIGHTS, load_video_text_model, sha256_of
from metrics.errors import UnknownNameError, WeightsError


class Extractor(nn.Module):
    """Map uint8 videos ``(B, T, 3, H, W)`` to float32 features ``(B, D)``.

    Attributes:
        dim: D.
        sampling: how frames are to be chosen from a file.
        provenance: extractor, resizing and weights as they stand in a signature.
    """

    dim: int
    sampling: str
    provenance: str


class EmbeddedExtractor(Extractor):
    """Features of the embedded video tower, trained on sprites: 8 frames of 64 x 64, D = 128."""

    def __init__(self, folder: Path = VIDEO_WEIGHTS) -> None:
        super().__init__()
        model, self.tokenizer = load_video_text_model(folder)
        self.model = model
        self.size, self.frames = int(model.config["size"]), int(model.config["frames"])
        self.dim = int(model.config["embed_dim"])
        self.sampling = f"uniform:{self.frames}"
        digest = sha256_of(folder / "model.safetensors")[:12]
        self.provenance = f"resize:{self.size}-bilinear-aa-squash|extractor:embedded|weights:{digest}"

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        """Return ``(B, D)`` features of 8 even frames squashed to 64 x 64."""
        return self.model.video(self.fitted(videos))

    def fitted(self, videos: Tensor) -> Tensor:
        """Return ``(B, 8, 3, 64, 64)`` float clips in [0, 255]."""
        _check_videos(videos)
        return _resized(uniform_frames(videos, self.frames), (self.size, self.size), antialias=True)


class R3d18Extractor(Extractor):
    """Penultimate features of torchvision's r3d_18 (Kinetics-400): 16 frames of 112 x 112, D = 512."""

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | None) -> None:
        from torchvision.models.video import r3d_18

        super().__init__()
        if weights is None:
            raise WeightsError(
                "the extractor r3d_18 needs its weight file; give the path of r3d_18-b3b3357e.pth "
                "(torchvision's KINETICS400_V1)"
            )
        network = _loaded(lambda: r3d_18(weights=None), weights, "r3d_18")
        network.fc = nn.Identity()
        self.network = network.eval().requires_grad_(False)
        self.dim, self.sampling = 512, "uniform:16"
        self.provenance = (
            f"resize:128x171-bilinear-crop112|extractor:r3d_18|weights:{sha256_of(weights)[:12]}"
        )
        self.register_buffer(
            "mean", torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1), persistent=False
        )

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        """Return ``(B, 512)`` features of 16 even frames, prepared as torchvision's own transform does."""
        _check_videos(videos)
        x = _resized(uniform_frames(videos, 16), (128, 171), antialias=False).round()
        x = x[..., 8:120, 30:142] / 255  # torchvision rounds half pixels of the crop to even
        return self.network(((x - self.mean) / self.std).transpose(1, 2))


EXTRACTORS: dict[str, Callable[[Path | None], Extractor]] = {
    "embedded": lambda weights: EmbeddedExtractor(weights or VIDEO_WEIGHTS),
    "r3d_18": R3d18Extractor,
}


def load_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Return an extractor in eval mode.

    Args:
        name: key of ``EXTRACTORS``.
        weights: its weight file (for ``embedded`` a weight folder).

    Raises:
        UnknownNameError: nothing bears the name.
        WeightsError: weights are missing or do not fit.
    """
    if name not in EXTRACTORS:
        raise UnknownNameError("extractor", name, EXTRACTORS)
    return EXTRACTORS[name](weights).eval()


def uniform_frames(videos: Tensor, count: int) -> Tensor:
    """Return ``count`` frames evenly from the first to the last of ``(B, T, C, H, W)`` videos."""
    length = videos.shape[1]
    if length == count:
        return videos
    return videos[:, torch.linspace(0, length - 1, count, dtype=torch.float64).round().long()]


def _check_videos(videos: Tensor) -> None:
    if videos.ndim != 5 or videos.shape[2] != 3 or videos.dtype != torch.uint8:
        raise ValueError(f"expected uint8 (B, T, 3, H, W), got {videos.dtype} {tuple(videos.shape)}")


def _resized(videos: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    frames = videos.flatten(0, 1).float()
    if frames.shape[-2:] != size:
        frames = interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return frames.unflatten(0, videos.shape[:2])


def _loaded(build: Callable[[], nn.Module], path: Path, name: str) -> Any:
    from pickle import UnpicklingError

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = build()
        network.load_state_dict(state)
    except (OSError, EOFError, RuntimeError, UnpicklingError, TypeError, AttributeError) as error:
        detail = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} does not hold the weights of {name} ({detail})") from error
    return network
