"""Names and signatures."""

import pytest
from torchmetrics import Metric

from metrics.errors import IncomparableError, MetricError, UnknownNameError
from metrics.registry import METRICS, metric_class, metric_info
from metrics.signature import difference, signature


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        metric_info("fid")
    assert all(name in str(caught.value) for name in METRICS)
    assert isinstance(caught.value, MetricError)


def test_every_metric_says_what_it_is() -> None:
    for name, info in METRICS.items():
        assert metric_info(name) is info
        assert info.name == name
        low, high = info.range
        assert low is None or high is None or low < high
        assert set(info.needs) <= {"prompt", "reference", "pair", "image", "weights", "motion", "ffmpeg"}


def test_every_metric_of_ours_has_a_torchmetrics_class() -> None:
    for name, info in METRICS.items():
        if info.family == "vbench":
            with pytest.raises(UnknownNameError, match="subject_consistency"):
                metric_class(name)
            continue
        found = metric_class(name)
        assert issubclass(found, Metric)
        better = {True: "higher", False: "lower", None: "neutral"}[found.higher_is_better]
        assert info.family == "temporal" or better == info.direction


def test_values_of_one_signature_subtract() -> None:
    stamp = signature("fvd", 1, "ddof:1")
    assert difference(3.0, stamp, 1.0, stamp) == 2.0


def test_values_of_different_signatures_do_not_subtract() -> None:
    with pytest.raises(IncomparableError, match="ddof:1 against ddof:0"):
        difference(3.0, signature("fvd", 1, "x:1", "ddof:1"), 1.0, signature("fvd", 1, "x:1", "ddof:0"))
