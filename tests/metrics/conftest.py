"""Small videos and tiny random models in the format of the embedded ones."""

import gzip
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from metrics.embedded import VideoTextModel, load_tokenizer


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def _encode(path: Path, frames: Tensor, fps: int = 10, crf: int = 10) -> Path:
    """Write uint8 ``(T, 3, H, W)`` frames as H.264 mp4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames.permute(0, 2, 3, 1).numpy():
            for packet in stream.encode(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            ):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _moving_texture(seed: int = 0, frames: int = 12, size: int = 64, step: float = 1.5) -> Tensor:
    """Return a clip of a patterned disc crossing a slowly panning texture, uint8 ``(T, 3, S, S)``."""
    generator = torch.Generator().manual_seed(seed)
    large = interpolate(torch.rand(1, 3, 24, 24, generator=generator), size=2 * size, mode="bicubic")
    large = (20 + 200 * large[0]).clamp(0, 255)
    angle = float(torch.rand(1, generator=generator)) * 2 * torch.pi
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    clip = []
    for t in range(frames):
        left, part = divmod(size / 2 + 0.7 * t, 1)
        here = large[:, size // 2 : size // 2 + size, int(left) : int(left) + size]
        after = large[:, size // 2 : size // 2 + size, int(left) + 1 : int(left) + 1 + size]
        shift = step * (t - frames / 2)
        cx, cy = size / 2 + np.cos(angle) * shift, size / 2 + np.sin(angle) * shift
        alpha = (size / 8 - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()).clamp(0, 1)
        disc = torch.stack(
            [200 + 40 * torch.sin((x - cx) / 3), 60 + 40 * torch.sin((y - cy) / 4), 80 + 0 * x]
        )
        clip.append(((1 - part) * here + part * after) * (1 - alpha) + disc * alpha)
    return torch.stack(clip).round().clamp(0, 255).byte()


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """Write frames as mp4: ``encode(path, frames, fps=10, crf=10)``."""
    return _encode


@pytest.fixture(scope="session")
def moving_texture() -> Callable[..., Tensor]:
    """Make a clip: ``moving_texture(seed=0, frames=12, size=64, step=1.5)``."""
    return _moving_texture


def write_bpe(path: Path) -> None:
    """Write an open_clip byte-pair table that knows one pair."""
    path.write_bytes(gzip.compress(b"#version: test\nr e", mtime=0))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random open_clip model saved as the embedded one is: config, byte-pair table, safetensors."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    write_bpe(folder / "bpe.txt.gz")
    text = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
    text["vocab_size"] = load_tokenizer(folder, 16).vocab_size
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"])
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_video_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random video-text model saved as the embedded one is."""
    folder = tmp_path_factory.mktemp("video")
    write_bpe(folder / "bpe.txt.gz")
    text = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
    config = {"frames": 4, "size": 16, "embed_dim": 6, "stem": [4, 8], "motion": [8, 8], "look": [8]}
    config["text"] = text
    torch.manual_seed(0)
    model = VideoTextModel(config, load_tokenizer(folder, 16).vocab_size)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "recipe.json").write_text(json.dumps({"words": ["a", "red", "star"]}))
    return folder
