"""Scoring files: rows, set values, failures, signatures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from metrics.errors import UnknownNameError
from metrics.registry import METRICS
from metrics.scorer import ScoreOptions, ScoreTable, score_videos


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor]) -> Path:
    """Two moving videos, a frozen one and a text file, all named .mp4."""
    encode(tmp_path / "a.mp4", moving_texture(0))
    encode(tmp_path / "b.mp4", moving_texture(1))
    encode(tmp_path / "c.mp4", moving_texture(2)[:1].expand(12, -1, -1, -1))
    (tmp_path / "d.mp4").write_text("not a video")
    return tmp_path


def score(
    folder: Path, options: ScoreOptions, *metrics: str, prompts: list[str | None] | None = None
) -> ScoreTable:
    paths = sorted(folder.glob("*.mp4"))
    return score_videos(
        paths, prompts, metrics, reference_paths=paths[:2], options=options, progress=False
    )  # fmt: skip


@pytest.fixture
def tiny(tiny_clip: Path, tiny_video_model: Path) -> ScoreOptions:
    return ScoreOptions(clip_model=f"local-dir:{tiny_clip}", extractor_weights=tiny_video_model)


def test_a_bad_file_is_listed_and_the_rest_is_scored(folder: Path, tiny: ScoreOptions) -> None:
    prompts = ["red star moving", "blue star moving", "a star spinning", "a star"]
    table = score(folder, tiny, "clip", "fvd", "temporal", prompts=prompts)
    assert [failure.path.name for failure in table.failures] == ["d.mp4"]
    assert {row.path.name for row in table.rows} == {"a.mp4", "b.mp4", "c.mp4"}
    assert all(row.metric in METRICS for row in table.rows)
    values = {(row.path.name, row.metric): row for row in table.rows}
    assert values["a.mp4", "clip"].value is not None
    assert values["a.mp4", "temporal"].value == pytest.approx(1 - values["a.mp4", "accel_ratio"].value)
    sets = {item.metric: item for item in table.set_values}
    assert sets["fvd"].value is not None
    assert sets["fvd"].details["n_reference"] == 2
    assert sets["fvd"].details["corrected"] is None
    assert json.loads(json.dumps(table.to_dict()))["failures"][0]["path"].endswith("d.mp4")


def test_a_frozen_video_has_no_consistency_and_pulls_the_mean_down(folder: Path, tiny: ScoreOptions) -> None:
    for prompts, counted in ((None, 3), ([None, None, "a star standing still", None], 2)):
        table = score(folder, tiny, "temporal", prompts=prompts)
        values = {(row.path.name, row.metric): row for row in table.rows}
        assert values["c.mp4", "static"].value == 1
        assert values["c.mp4", "temporal"].value is None
        assert values["c.mp4", "temporal"].reason == "the video is static"
        (mean,) = [item for item in table.set_values if item.metric == "temporal"]
        total = values["a.mp4", "temporal"].value + values["b.mp4", "temporal"].value
        assert mean.value == pytest.approx(total / counted)
        assert (mean.n, mean.details["n_static"]) == (counted, 1)


def test_a_frozen_video_has_a_clip_score_only_where_stillness_was_asked(
    folder: Path, tiny: ScoreOptions
) -> None:
    (folder / "d.mp4").unlink()
    for prompt, scored in (("a red star moving", 2), ("a red star standing still", 3)):
        table = score(folder, tiny, "clip", prompts=[prompt] * 3)
        assert [row.value is not None for row in table.rows] == [True, True, scored == 3]
        (mean,) = table.set_values
        assert (mean.n, mean.details.get("n_static", 0)) == (scored, 3 - scored)
    assert table.rows[2].reason is None


def test_what_is_missing_is_said(folder: Path, tiny: ScoreOptions) -> None:
    table = score_videos([folder / "a.mp4"], None, ["clip", "fvd"], options=tiny, progress=False)
    assert (table.rows[0].value, table.rows[0].reason) == (None, "the video has no prompt")
    reasons = {item.metric: item.reason for item in table.set_values}
    assert reasons == {"clip": "the video has no prompt", "fvd": "no reference videos were given"}


def test_two_frames_are_too_few_for_motion(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor], tiny: ScoreOptions
) -> None:
    encode(tmp_path / "short.mp4", moving_texture()[:2])
    table = score(tmp_path, tiny, "temporal")
    assert all(row.value is None and "3 frames" in (row.reason or "") for row in table.rows)


def test_videos_of_different_rates_have_no_common_mean(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor], tiny: ScoreOptions
) -> None:
    encode(tmp_path / "a.mp4", moving_texture(), fps=10)
    encode(tmp_path / "b.mp4", moving_texture(), fps=30)
    (mean,) = score(tmp_path, tiny, "speed").set_values
    assert mean.value is None
    assert "2 different ways" in (mean.reason or "")


def test_the_signature_tells_how_a_value_was_measured(folder: Path, tiny: ScoreOptions) -> None:
    first = score(folder, tiny, "fvd", "accel_ratio")
    second = score(
        folder, ScoreOptions(ddof=0, extractor_weights=tiny.extractor_weights), "fvd", "accel_ratio"
    )
    assert first.set_values[0].signature != second.set_values[0].signature
    assert "ddof:1" in first.set_values[0].signature
    assert first.rows[0].signature == second.rows[0].signature
    assert "sampling:native|fps:10" in first.rows[0].signature


def test_unknown_names_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="known: accel_ratio"):
        score_videos([tmp_path / "absent.mp4"], None, ["clip", "beauty"])
    with pytest.raises(UnknownNameError, match="sampling"):
        score_videos([], None, ["temporal"], options=ScoreOptions(temporal_sampling="some"))
    with pytest.raises(UnknownNameError, match="lucas-kanade"):
        score_videos([], None, ["temporal"], options=ScoreOptions(flow="horn-schunck"))
    with pytest.raises(UnknownNameError, match="dinov2"):
        score_videos([], None, ["consistency"], options=ScoreOptions(encoder="inception"))
    with pytest.raises(ValueError, match="one prompt per video"):
        score_videos([tmp_path / "a.mp4"], [], ["clip"])


def test_damaged_files_of_every_kind_are_listed_and_the_rest_is_scored(folder: Path) -> None:
    whole = (folder / "a.mp4").read_bytes()
    (folder / "d.mp4").unlink()
    (folder / "e-empty.mp4").touch()
    (folder / "f-cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "g-header.mp4").write_bytes(whole[: whole.find(b"moov") - 4])
    (folder / "h-bomb.mp4").write_bytes(whole.replace(b"mvhd", b"cmov"))
    table = score_videos(sorted(folder.glob("*.mp4")), metrics=["temporal"], progress=False)
    assert {row.path.name for row in table.rows} == {"a.mp4", "b.mp4", "c.mp4"}
    assert [failure.path.name[0] for failure in table.failures] == ["e", "f", "g", "h"]
    for failure in table.failures:
        assert failure.path.name in failure.reason
        assert "\n" not in failure.reason


def test_a_failed_video_leaves_nothing_in_the_set(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor], tiny: ScoreOptions
) -> None:
    paths = [encode(tmp_path / f"{seed}.mp4", moving_texture(seed, frames=6, size=32)) for seed in range(3)]
    whole = paths[0].read_bytes()
    (tmp_path / "9.mp4").write_bytes(whole[:-40])
    table = score_videos([*paths, tmp_path / "9.mp4"], metrics=["fvd", "speed"], reference_paths=paths,
                         options=tiny, progress=False)  # fmt: skip
    assert [failure.path.name for failure in table.failures] == ["9.mp4"]
    assert table.features is not None
    assert len(table.features.names) == 3
    assert table.set_values[0].value == pytest.approx(0, abs=1e-6)
