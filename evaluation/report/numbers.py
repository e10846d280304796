"""Numbers as readers see them."""

from collections.abc import Sequence

IDENTICAL = "0 (identical)"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number: thousands separated, a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, a dash where there is none."""
    if not value:
        return "–" if value is None else "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        text = f"{value:.{digits - 1}e}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def signed(value: float | None) -> str:
    """Write a difference with its sign, which nothing has none of."""
    if not value:
        return "–" if value is None else "0"
    return f"{value:+.3g}".replace("-", "−")


def without_noise(value: float, scale: float) -> float:
    """Return 0 for what rounding alone leaves of a sum of numbers of that scale, else the value."""
    return 0.0 if abs(value) <= 1e-12 * abs(scale) else value


def difference(mean: float, low: float | None, high: float | None) -> str:
    """Write a mean difference with its interval, if it has one; ``0 (identical)`` where all pairs are equal."""
    if low is None or high is None:
        return signed(mean)
    if mean == low == high == 0:
        return IDENTICAL
    return f"{signed(without_noise(mean, high - low))} [{signed(low)}, {signed(high)}]"


def percent(value: float | None) -> str:
    """Write a share in percent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}%".replace("-", "−")


def ends(interval: Sequence[float | None]) -> tuple[str, str]:
    """Write the ends of a ratio's interval so that one beside 1 is not rounded to 1; no end is infinity."""
    low, high = (_end(end) for end in interval)
    return low, high


def _end(end: float | None) -> str:
    if end is None:
        return "∞"
    digits = next((places for places in (2, 3) if round(end, places) != 1 or end == 1), 4)
    return number(end, digits)


def between(interval: Sequence[float | None] | None) -> str:
    """Write the interval of a ratio."""
    return "–" if interval is None else " – ".join(ends(interval))


def ratio(
    value: float | None, interval: Sequence[float | None] | None, absent: str = "not computable"
) -> str:
    """Write a ratio with its interval, or why there is none."""
    if value is None:
        return absent
    return f"{number(value)} [{', '.join(ends(interval))}]" if interval else number(value)


def seconds(value: float | None) -> str:
    """Write a time."""
    return "–" if value is None else f"{value:,.1f} s" if value < 100 else f"{value:,.0f} s"
