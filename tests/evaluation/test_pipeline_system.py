import pytest

from evaluation.systems.pipeline import Pipeline
from magicvideo.errors import MagicVideoError


def test_arms_share_weights_and_differ_in_their_digest() -> None:
    full, without_v2v = Pipeline("sprites").arms("full", "-v2v")
    assert (full.name, without_v2v.name) == ("sprites:full", "sprites:-v2v")
    assert full.config["weights"] == without_v2v.config["weights"]
    assert full.config_digest != without_v2v.config_digest
    assert full.config_digest == Pipeline("sprites").arms("full")[0].config_digest


def test_unknown_preset_and_arm_are_refused_with_the_known_ones() -> None:
    with pytest.raises(MagicVideoError, match="sprites"):
        Pipeline("spirtes")
    with pytest.raises(MagicVideoError, match="-v2v"):
        Pipeline("sprites").arms("without v2v")
