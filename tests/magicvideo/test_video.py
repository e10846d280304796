"""Writing mp4: size, rate, colour tags, the same bytes each time, nothing half-written."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from magicvideo.errors import MagicVideoError
from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import sample_scene
from magicvideo.video import check_writable, write_video


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return render(sample_scene(np.random.default_rng(0)), frame_times(10), 64).video


def test_size_rate_codec_and_colour_tags(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames, 30)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 64, 64)
        assert stream.average_rate == 30
        decoded = list(container.decode(stream))
        assert len(decoded) == 10
        assert (int(context.color_primaries), int(context.color_trc), int(context.colorspace)) == (1, 1, 1)
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    assert np.abs(back.astype(int) - frames).mean() < 4


def test_pure_colours_survive_the_round_trip(tmp_path: Path) -> None:
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 32, 32, 3))
    write_video(tmp_path / "clip.mp4", frames, 10, crf=1)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(back.astype(int) - frames).max() <= 4


def test_same_frames_give_the_same_bytes(frames: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, Fraction(30))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_channels_first_frames_are_taken_too(frames: np.ndarray, tmp_path: Path) -> None:
    import torch

    write_video(tmp_path / "a.mp4", frames, 30)
    write_video(tmp_path / "b.mp4", torch.from_numpy(frames).permute(0, 3, 1, 2), 30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_frames_that_cannot_be_encoded_are_refused(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "x.mp4", frames[:, :63], 30)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "x.mp4", frames.astype(float), 30)
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_one_sentence(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="does not exist; create it first"):
        check_writable(tmp_path / "missing" / "x.mp4")
    with pytest.raises(MagicVideoError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(MagicVideoError, match=r"ending in \.mp4"):
        check_writable(tmp_path / "x.gif")
    with pytest.raises(MagicVideoError, match="cannot write"):
        write_video(tmp_path / "missing" / "x.mp4", frames, 30)
