"""Reading files: right frames, right times, and one sentence for everything else."""

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.errors import MediaError, UnknownNameError
from metrics.scorer import score_videos
from metrics.video import Limits, VideoFile, read_video, resample

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


def encoded(path: Path, images: Tensor, pixels: str, times: list[int] | None = None, **options: str) -> Path:
    """Write uint8 ``(T, 3, H, W)`` frames with a pixel format, x264 options and times in tenths of a second."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5", **options})
        stream.width, stream.height, stream.pix_fmt = images.shape[3], images.shape[2], pixels
        stream.codec_context.time_base = Fraction(1, 10)
        for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if "x264-params" in options:
                frame = frame.reformat(format=pixels, dst_colorspace="ITU709")
            frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patched(path: Path, kind: bytes, offset: int, value: int) -> Path:
    """Overwrite one 32-bit number in the payload of the first box of a kind."""
    data = bytearray(path.read_bytes())
    at = data.find(kind) + 4 + offset
    data[at : at + 4] = (value % 2**32).to_bytes(4)
    path.write_bytes(data)
    return path


def test_ten_bits_odd_sizes_and_a_single_frame_are_read(tmp_path: Path) -> None:
    deep = read_video(encoded(tmp_path / "deep.mp4", flat_frames(3), "yuv420p10le"))
    assert (deep.frames.float().mean((1, 2, 3)) - torch.tensor([10, 20, 30])).abs().max() < 3
    odd = read_video(encoded(tmp_path / "odd.mp4", flat_frames(3)[..., :31, :27], "yuv444p"))
    assert odd.frames.shape == (3, 3, 31, 27)
    single = read_video(encoded(tmp_path / "single.mp4", flat_frames(1), "yuv420p"))
    assert (len(single.frames), single.fps) == (1, 10)
    assert len(read_video(tmp_path / "single.mp4", sampling="uniform:4").frames) == 4


def test_a_rotated_video_is_turned_upright(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 32, 48, dtype=torch.uint8)
    images[:, :, :16] = 200  # bright above; turned clockwise, bright on the right
    path = encoded(tmp_path / "a.mp4", images, "yuv420p")
    for offset, value in ((40, 0), (44, 1 << 16), (52, -(1 << 16)), (56, 0)):
        patched(path, b"tkhd", offset, value)
    frames = read_video(path).frames.float()
    assert frames.shape == (3, 3, 48, 32)
    assert frames[..., 20:].min() > 180
    assert frames[..., :12].max() < 20


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", flat_frames(6), "yuv420p", times=[0, 1, 2, 3, 10, 20])
    clip = read_video(path)
    assert clip.timestamps.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 1, 2])
    chosen = read_video(path, sampling="uniform:3")
    assert torch.equal(chosen.frames, clip.frames[[0, 4, 5]])
    assert clip.fps == pytest.approx(5 / 2, rel=0.02)


def test_colour_tags_are_honoured(tmp_path: Path) -> None:
    red = torch.tensor([200, 30, 40], dtype=torch.uint8).view(1, 3, 1, 1).expand(3, -1, 32, 32)
    params = "colormatrix=bt709:colorprim=bt709:transfer=bt709"
    tagged = read_video(encoded(tmp_path / "709.mp4", red, "yuv420p", **{"x264-params": params}))
    assert (tagged.frames.float().mean((0, 2, 3)) - torch.tensor([200.0, 30, 40])).abs().max() < 3
    untagged = read_video(encoded(tmp_path / "601.mp4", red, "yuv420p"))
    assert (untagged.frames.float().mean((0, 2, 3)) - torch.tensor([200.0, 30, 40])).abs().max() < 3


def sound_alone(path: Path) -> Path:
    """Write an mp4 file with an audio track only."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no video stream"):
        read_video(sound_alone(tmp_path / "a.mp4"))


def test_unusual_videos_are_scored_in_one_batch_and_what_is_none_is_listed(tmp_path: Path) -> None:
    encoded(tmp_path / "deep.mp4", flat_frames(4), "yuv420p10le")
    encoded(tmp_path / "odd.mp4", flat_frames(4)[..., :31, :27], "yuv444p")
    encoded(tmp_path / "single.mp4", flat_frames(1), "yuv420p")
    encoded(tmp_path / "uneven.mp4", flat_frames(4), "yuv420p", times=[0, 1, 5, 9])
    turned = encoded(tmp_path / "turned.mp4", flat_frames(4), "yuv420p")
    for offset, value in ((40, 0), (44, 1 << 16), (52, -(1 << 16)), (56, 0)):
        patched(turned, b"tkhd", offset, value)
    sound_alone(tmp_path / "sound.mp4")
    table = score_videos(sorted(tmp_path.glob("*.mp4")), metrics=["sharpness", "speed"], progress=False)
    assert [failure.path.name for failure in table.failures] == ["sound.mp4"]
    missing = {(row.path.stem, row.metric): row.reason for row in table.rows if row.value is None}
    assert missing == {("single", "speed"): "motion needs at least 3 frames, the video has 1"}
    assert {row.path.stem for row in table.rows} == {"deep", "odd", "single", "uneven", "turned"}


def test_what_a_header_claims_is_checked_before_ffmpeg_reads_it(tmp_path: Path, encode: Encode) -> None:
    for name, kind, offset in (("sizes", b"stsz", 8), ("times", b"stts", 8), ("chunks", b"stsc", 4)):
        path = patched(encode(tmp_path / f"{name}.mp4", flat_frames(4)), kind, offset, 0x7FFFFFFF)
        with pytest.raises(MediaError, match="claims 2147483647 samples"):
            read_video(path)
    whole = encode(tmp_path / "cmov.mp4", flat_frames(4)).read_bytes()
    (tmp_path / "cmov.mp4").write_bytes(whole.replace(b"mvhd", b"cmov"))
    with pytest.raises(MediaError, match="compressed header"):
        read_video(tmp_path / "cmov.mp4")


def test_a_box_that_ends_beyond_the_file_is_named_in_one_line(tmp_path: Path, encode: Encode) -> None:
    whole = encode(tmp_path / "a.mp4", flat_frames(4)).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[:-8])
    with pytest.raises(MediaError, match="cut short: its moov box ends 8 bytes beyond"):
        read_video(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(whole + b"\0\0\1\0\n\n\xff\n")
    with pytest.raises(MediaError, match="its 0a0aff0a box") as caught:
        read_video(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)


def test_a_reference_to_another_file_is_not_followed(tmp_path: Path, encode: Encode) -> None:
    secret = encode(tmp_path / "secret.mp4", flat_frames(4))
    data = encode(tmp_path / "a.mp4", flat_frames(4)).read_bytes()
    entry = b"\0\0\0\x0curl \0\0\0\x01"
    assert entry in data
    name = secret.name.encode() + b"\0"
    linked = (12 + len(name)).to_bytes(4) + b"url \0\0\0\0" + name
    (tmp_path / "a.mp4").write_bytes(data.replace(entry, linked))
    with pytest.raises(MediaError, match=r"a\.mp4"):
        read_video(tmp_path / "a.mp4")


def test_parts_are_the_whole_and_come_with_little_memory(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", flat_frames(11))
    file = VideoFile(path, Limits(max_decoded_bytes=4 * 32 * 32 * 3))
    parts = list(file.parts("native", size=4))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert torch.equal(torch.cat(parts), read_video(path).frames)
    with pytest.raises(MediaError, match="memory"):
        file.clip()


def test_first_takes_consecutive_frames(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", flat_frames(6))
    assert torch.equal(read_video(path, sampling="first:4").frames, read_video(path).frames[:4])
    with pytest.raises(MediaError, match="too few for sampling first:7"):
        read_video(path, sampling="first:7")


def test_mutated_files_raise_nothing_but_media_errors_and_crash_nothing() -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "metrics_fuzz.py"
    done = subprocess.run(
        [sys.executable, str(program), "--count", "150", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    report = json.loads(done.stdout)
    assert report["failed"] == []
    assert report["outcomes"]["refused"] + report["outcomes"]["read"] == 150
    assert min(report["outcomes"].values()) > 10
    assert done.returncode == 0
