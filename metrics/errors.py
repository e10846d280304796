"""What can go wrong in ``metrics``, as one hierarchy.

MetricError             root; its message is one sentence a user can act on
|-- MediaError          a file is not a video that can be read within the limits
|-- UnknownNameError    no metric, extractor or sampling has this name
|-- WeightsError        weights are missing, damaged or do not fit their model
|-- FfmpegError         the ffmpeg program is missing, lacks a filter or failed
|-- PluginError         a metric or extractor of another package cannot be used
`-- IncomparableError   two values were measured differently and may not be subtracted
"""

from collections.abc import Iterable


class MetricError(Exception):
    """Report a failure of ``metrics`` in one sentence: what, where, what was expected, what to do."""


class MediaError(MetricError):
    """Report that a file is not a video that can be read within the limits."""


class WeightsError(MetricError):
    """Report weights that are missing, damaged or do not fit their model."""


class FfmpegError(MetricError):
    """Report that the ffmpeg program is missing, lacks a filter or failed."""


class PluginError(MetricError):
    """Report a metric or extractor of another package that cannot be loaded or breaks its contract."""


class IncomparableError(MetricError):
    """Report that two values have different signatures."""


class UnknownNameError(MetricError):
    """Report a name that nothing bears, with the list of known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
