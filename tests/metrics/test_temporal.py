"""Temporal consistency: what a set of videos scores, and that a frozen one never wins."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metrics.stillness import asks_for_motion
from metrics.temporal import TemporalConsistency

MakeClip = Callable[..., Tensor]


def frozen(video: Tensor) -> Tensor:
    return video[:1].expand_as(video)


def test_a_frozen_video_lowers_the_mean_where_motion_was_asked(moving_texture: MakeClip) -> None:
    metric = TemporalConsistency()
    metric.update([moving_texture(0), moving_texture(1)], fps=10)
    clean = float(metric.compute())
    assert clean > 0.8
    metric.update([frozen(moving_texture(2))], fps=10)
    assert float(metric.compute()) == pytest.approx(clean * 2 / 3, rel=1e-6)
    assert metric.num_static() == 1


def test_a_frozen_video_is_left_out_where_stillness_was_asked(moving_texture: MakeClip) -> None:
    metric = TemporalConsistency()
    metric.update([moving_texture(0), frozen(moving_texture(0))], fps=10, expects_motion=[True, False])
    alone = TemporalConsistency()
    alone.update([moving_texture(0)], fps=10)
    assert float(metric.compute()) == pytest.approx(float(alone.compute()))


def test_a_set_of_frozen_videos_has_no_value_or_the_worst(moving_texture: MakeClip) -> None:
    worst, none = TemporalConsistency(), TemporalConsistency()
    worst.update([frozen(moving_texture())], fps=10)
    none.update([frozen(moving_texture())], fps=10, expects_motion=[False])
    assert float(worst.compute()) == 0
    assert torch.isnan(none.compute())


def test_profiles_are_kept_per_video(moving_texture: MakeClip) -> None:
    metric = TemporalConsistency()
    metric.update([moving_texture(0), frozen(moving_texture(0))], fps=10)
    moving, static = metric.profiles()
    assert (moving["static"], static["static"]) == (False, True)
    assert static["accel_ratio"] is None
    assert moving["accel_ratio"] is not None
    assert moving["cuts"] == 0


def test_numbers_that_do_not_fit_are_refused(moving_texture: MakeClip) -> None:
    with pytest.raises(ValueError, match="expects_motion"):
        TemporalConsistency().update([moving_texture()], 10, [True, False])


@pytest.mark.parametrize(
    ("prompt", "moves"),
    [
        ("a large red star spinning on a sunset background", True),
        ("a small blue cross standing still on a grey background", False),
        ("a red star standing still and a blue circle moving left", True),
        ("a red star standing still and a blue circle standing still", False),
        ("a distillery at night", True),
        ("A Motionless lake", False),
    ],
)
def test_prompts_that_ask_for_stillness_are_known(prompt: str, moves: bool) -> None:
    assert asks_for_motion(prompt) is moves
