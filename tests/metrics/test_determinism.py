"""Values depend neither on how many frames are computed at once, nor on threads, nor on the run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metrics.embedded import CLIP_WEIGHTS
from metrics.features import EmbeddedExtractor
from metrics.functional import temporal
from metrics.functional.temporal import profile_of_parts, temporal_profile
from metrics.scorer import score_videos
from metrics.text_video import CLIPScore

MakeClip = Callable[..., Tensor]


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_does_not_depend_on_chunks_or_threads(
    threads: int, moving_texture: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = moving_texture(frames=9, size=160)
    expected = temporal_profile(clip, 10)
    torch.set_num_threads(threads)
    monkeypatch.setattr(temporal, "PAIRS", 3)
    found = profile_of_parts(clip.split(2), 10)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.usefixtures("_threads_restored")
def test_embedded_scores_do_not_depend_on_batches_or_threads(moving_texture: MakeClip) -> None:
    clips = torch.stack([moving_texture(seed, frames=8) for seed in range(3)])
    extractor = EmbeddedExtractor().eval()
    expected, scores = extractor(clips), []
    for threads, batch_size in ((1, 64), (2, 3)):
        torch.set_num_threads(threads)
        alone = torch.cat([extractor(clip[None]) for clip in clips])
        assert (alone - expected).abs().max() < 1e-5 * expected.abs().max()
        metric = CLIPScore(f"local-dir:{CLIP_WEIGHTS}", batch_size=batch_size)
        metric.update(clips, ["a red star"] * 3)
        scores.append(metric.values())
    assert torch.allclose(scores[0], scores[1], rtol=1e-5, atol=1e-5)


def test_the_same_files_give_the_same_table(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: MakeClip
) -> None:
    paths = [encode(tmp_path / f"{seed}.mp4", moving_texture(seed, frames=8)) for seed in range(2)]
    metrics = ["clip", "video_text", "temporal", "stage", "fvd", "kvd"]
    tables = [
        score_videos(paths, ["a red star", "a blue star"], metrics, reference_paths=paths, progress=False)
        for _ in range(2)
    ]
    assert tables[0].to_dict() == tables[1].to_dict()
    assert tables[0].features is not None
