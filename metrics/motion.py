"""The temporal family of one file; imports no torchmetrics, to be light."""

from collections.abc import Mapping

from metrics.functional.temporal import FLOW_SIDE, Profile
from metrics.measures import Measure, Missing, Value, Video
from metrics.registry import FAMILIES, STATIC


def consistency(profile: Profile) -> float | None:
    """Return 1 - acceleration ratio, or None where that is undefined (a static or very short video)."""
    ratio = profile["accel_ratio"]
    return None if ratio is None else 1.0 - ratio


class TemporalMeasure(Measure):
    """The temporal family of one file.

    Args:
        sampling: frames to look at.
        flow_name: what stands in the signature for the flow that the videos were given.
    """

    infos = FAMILIES["temporal"]
    rate_matters = True

    def __init__(self, sampling: str = "native", flow_name: str = "flow:lucas-kanade") -> None:
        self.sampling = sampling
        self.provenance = f"resize:{FLOW_SIDE}-bilinear-aa-short|{flow_name}"

    def values(self, video: Video) -> Mapping[str, Value]:
        """Return the values of the profile and ``temporal``, 1 - acceleration ratio."""
        names = [info.name for info in self.infos]
        count = video.num_frames(self.sampling)
        if count < 3:
            return dict.fromkeys(names, Missing(f"motion needs at least 3 frames, the video has {count}"))
        profile = video.profile(self.sampling)
        known = profile | {"temporal": consistency(profile)}
        reason = STATIC if profile["static"] else "nothing between its cuts can be judged"
        found: dict[str, Value] = {}
        for name in names:
            value = known[name]
            found[name] = Missing(reason) if value is None else float(value)
        return found
