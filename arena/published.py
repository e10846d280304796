"""Designs that publications state about tables they print, so that the two can be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

# MagicVideo-V2 (arXiv 2401.04468), Table 1. The text beside it: "A panel of 61 evaluators rated 500
# side-by-side comparisons between MagicVideo-V2 and an alternative T2V method."
MAGICVIDEO_V2_TABLE_1 = frozenset(
    {
        ("MoonValley", "4099", "1242", "759"),
        ("Pika 1.0", "4263", "927", "1010"),
        ("Morph", "4129", "1230", "741"),
        ("Gen-2", "3448", "1279", "1373"),
        ("SVD-XT", "3169", "1591", "1340"),
    }
)


def stated_design(rows: Sequence[tuple[int, Mapping[str, str]]]) -> dict[str, Any]:
    """Return the design stated for a table of counts that is known, nothing for any other."""
    counts = {(row["competitor"], row["good"], row["same"], row["bad"]) for _, row in rows}
    if counts != MAGICVIDEO_V2_TABLE_1:
        return {}
    return {"stated_evaluators": 61, "stated_comparisons": 500, "stated_by": "arXiv 2401.04468, Table 1"}
