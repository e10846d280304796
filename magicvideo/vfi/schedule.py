"""Which frames lie between keyframes: 32 keyframes make 94 frames at factor 3, 63 at factor 2."""


def num_output_frames(num_keyframes: int, factor: int) -> int:
    """Return ``(num_keyframes - 1) * factor + 1``: every gap is cut into ``factor`` equal parts.

    Raises:
        ValueError: Fewer than one keyframe, or a factor below 1.
    """
    if num_keyframes < 1:
        raise ValueError(f"num_keyframes must be at least 1, got {num_keyframes}")
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    return (num_keyframes - 1) * factor + 1


def gap_times(factor: int) -> tuple[float, ...]:
    """Return the times inside a gap, 0 its first keyframe and 1 its second: (1/3, 2/3) for 3."""
    return tuple(step / factor for step in range(1, factor))


def keyframe_indices(num_keyframes: int, factor: int) -> range:
    """Return where the keyframes stand in the output."""
    return range(0, num_output_frames(num_keyframes, factor), factor)
