"""How many frames come out, and at which times."""

import pytest

from magicvideo.vfi.schedule import gap_times, keyframe_indices, num_output_frames


@pytest.mark.parametrize(
    ("keyframes", "factor", "expected"), [(32, 3, 94), (32, 2, 63), (32, 1, 32), (1, 3, 1)]
)
def test_number_of_frames(keyframes: int, factor: int, expected: int) -> None:
    assert num_output_frames(keyframes, factor) == expected
    assert len(keyframe_indices(keyframes, factor)) == keyframes


def test_times_cut_a_gap_evenly() -> None:
    assert gap_times(3) == pytest.approx((1 / 3, 2 / 3))
    assert gap_times(2) == (0.5,)
    assert gap_times(1) == ()


@pytest.mark.parametrize(("keyframes", "factor"), [(0, 3), (32, 0)])
def test_nothing_to_do_is_refused(keyframes: int, factor: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        num_output_frames(keyframes, factor)
