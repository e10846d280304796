"""VMAF: what is handed to ffmpeg and read back, and the sentence where there is no ffmpeg."""

import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metrics.errors import FfmpegError
from metrics.scorer import score_videos
from metrics.vmaf import VMAF, ffmpeg_version, vmaf

# Stands in for the program: it tells its version and filters, checks the graph and the two raw inputs, and
# writes a log in libvmaf's format whose value is 100 minus the mean absolute difference of the inputs.
PROGRAM = """#!{python}
import json, sys
if "-filters" in sys.argv:
    print(" .. {filter}           VV->V      Calculate the VMAF between two video streams.")
elif "-version" in sys.argv:
    print("ffmpeg version 7.1-static Copyright")
else:
    assert sys.argv.count("rgb24") == 2 and sys.argv[sys.argv.index("-s") + 1] == "{size}"
    assert "libvmaf=model=version=vmaf_v0.6.1" in sys.argv[sys.argv.index("-lavfi") + 1]
    if {broken}:
        print("cannot allocate", file=sys.stderr)
        sys.exit(1)
    a, b = sys.stdin.buffer.read(), open("true.rgb", "rb").read()
    assert len(a) == len(b) > 0
    mean = 100 - sum(abs(x - y) for x, y in zip(a, b)) / len(a)
    open("vmaf.json", "w").write(json.dumps({{"pooled_metrics": {{"vmaf": {{"mean": mean}}}}}}))
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a program named ffmpeg, and no other, on the PATH."""

    def put(libvmaf: bool = True, size: str = "32x16", broken: bool = False) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        text = PROGRAM.format(
            python=sys.executable, filter="libvmaf" if libvmaf else "psnr", size=size, broken=broken
        )
        (folder / "ffmpeg").write_text(text)
        (folder / "ffmpeg").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder))
        ffmpeg_version.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path))
    ffmpeg_version.cache_clear()
    yield put
    ffmpeg_version.cache_clear()


def pair() -> tuple[Tensor, Tensor]:
    reference = torch.randint(0, 200, (3, 3, 16, 32), generator=torch.Generator().manual_seed(0)).byte()
    return reference + 7, reference


def test_both_videos_reach_the_program_whole_and_its_mean_comes_back(install: Install) -> None:
    install()
    video, reference = pair()
    assert vmaf(video, reference) == pytest.approx(93)
    metric = VMAF()
    metric.update([video, reference], [reference, reference])
    assert metric.values().tolist() == pytest.approx([93, 100])


def test_without_the_program_or_its_filter_one_sentence_says_so(
    install: Install, tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor]
) -> None:
    path = encode(tmp_path / "a.mp4", moving_texture(frames=3, size=32))
    (row,) = score_videos([path], metrics=["vmaf"], reference_paths=[path], progress=False).rows
    assert row.value is None
    assert "ffmpeg with libvmaf on the PATH" in (row.reason or "")
    assert "ffmpeg:none" in row.signature
    install(libvmaf=False)
    with pytest.raises(FfmpegError, match="libvmaf"):
        vmaf(*pair())
    with pytest.raises(FfmpegError, match="libvmaf"):
        VMAF()


def test_files_are_scored_against_their_true_videos(
    install: Install, tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor]
) -> None:
    install(size="32x32")
    (tmp_path / "true").mkdir()
    paths = [encode(tmp_path / f"{name}.mp4", moving_texture(frames=3, size=32)) for name in "abc"]
    true = [
        encode(tmp_path / "true" / "a.mp4", moving_texture(frames=3, size=32)),
        encode(tmp_path / "true" / "b.mp4", moving_texture(frames=3, size=64)),
    ]
    rows = score_videos(paths, metrics=["vmaf"], reference_paths=true, progress=False).rows
    assert rows[0].value == pytest.approx(100)
    assert "ffmpeg:7.1-static" in rows[0].signature
    assert [row.reason for row in rows[1:]] == [
        "the reference has another size",
        "no reference video of the same file name",
    ]


def test_what_the_program_says_is_passed_on(install: Install) -> None:
    install(broken=True)
    with pytest.raises(FfmpegError, match="cannot allocate"):
        vmaf(*pair())
    with pytest.raises(ValueError, match="one shape"):
        vmaf(pair()[0], pair()[1][:2])
