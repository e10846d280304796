"""Reading files: right frames, right times, and one sentence for everything else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.errors import MediaError, UnknownNameError
from metrics.video import Limits, read_video, resample

Encode = Callable[..., Path]


def flat_frames(count: int, size: int = 32) -> Tensor:
    """Return frames whose grey level tells their index: 10, 20, 30, ..."""
    levels = 10 * (torch.arange(count) + 1)
    return levels.view(-1, 1, 1, 1).expand(-1, 3, size, size).byte()


def test_all_frames_come_back_in_order_with_their_times(tmp_path: Path, encode: Encode) -> None:
    clip = read_video(encode(tmp_path / "a.mp4", flat_frames(12), fps=10))
    assert clip.frames.shape == (12, 3, 32, 32)
    assert clip.frames.dtype == torch.uint8
    assert clip.fps == 10
    assert torch.allclose(clip.timestamps, torch.arange(12).double() / 10)
    assert (clip.frames.float().mean((1, 2, 3)) - 10 * torch.arange(1, 13)).abs().max() < 2


@pytest.mark.parametrize(
    ("sampling", "indices", "fps"),
    [("uniform:4", [0, 4, 8, 12], 2.5), ("uniform:1", [0], 10), ("fps:5", [0, 2, 4, 6, 8, 10, 12], 5)],
)
def test_sampling_chooses_frames_by_time(
    tmp_path: Path, encode: Encode, sampling: str, indices: list[int], fps: float
) -> None:
    path = encode(tmp_path / "a.mp4", flat_frames(13), fps=10)
    clip, whole = read_video(path, sampling=sampling), read_video(path)
    assert torch.equal(clip.frames, whole.frames[indices])
    assert clip.fps == pytest.approx(fps)
    again = resample(whole, sampling)
    assert torch.equal(again.frames, clip.frames)
    assert again.fps == clip.fps


def test_a_sampling_that_is_not_known_or_not_possible_is_refused(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", flat_frames(4), fps=10)
    for sampling in ("all", "uniform:0", "uniform:2.5", "fps:-1", "fps:x", "fps:inf"):
        with pytest.raises(UnknownNameError, match="native"):
            read_video(path, sampling=sampling)
    with pytest.raises(MediaError, match="too few for sampling fps:30"):
        read_video(path, sampling="fps:30")


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 20)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "head.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 100)
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    expected = {
        "text": "ftyp",
        "empty": "is empty",
        "head": "head.mp4",
        "playlist": "ftyp",
        "absent": "cannot be read",
    }
    for name, words in expected.items():
        with pytest.raises(MediaError, match=words) as caught:
            read_video(tmp_path / f"{name}.mp4")
        assert f"{name}.mp4" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError):
        read_video(tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, encode: Encode, kept: float) -> None:
    noise = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    whole = encode(tmp_path / "a.mp4", noise).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_bytes=100), "bytes"),
        (Limits(max_pixels=32 * 31), "32 x 32"),
        (Limits(max_frames=7), "8 frames"),
        (Limits(max_seconds=0.5), "lasts"),
        (Limits(max_decoded_bytes=8 * 32 * 32 * 3 - 1), "memory"),
    ],
)
def test_limits_are_kept(tmp_path: Path, encode: Encode, limits: Limits, words: str) -> None:
    path = encode(tmp_path / "a.mp4", flat_frames(8))
    with pytest.raises(MediaError, match=words):
        read_video(path, limits)


def test_damaged_files_raise_nothing_but_media_errors(tmp_path: Path, encode: Encode) -> None:
    whole = np.frombuffer(encode(tmp_path / "a.mp4", flat_frames(6)).read_bytes(), np.uint8)
    rng, path, refused = np.random.default_rng(0), tmp_path / "b.mp4", 0
    for _ in range(150):
        damaged = whole.copy()
        places = rng.integers(12, len(whole), size=int(rng.integers(1, 30)))
        damaged[places] = rng.integers(0, 256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            read_video(path, Limits(max_decoded_bytes=10**8))
        except MediaError:
            refused += 1
    assert refused > 20
