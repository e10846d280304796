"""Metrics and extractors of other packages, found by entry point."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from metrics import plugins
from metrics.errors import PluginError, UnknownNameError
from metrics.features import load_extractor
from metrics.registry import metric_info
from metrics.scorer import ScoreOptions, score_videos

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
SECTION = DOCS.partition("## A metric of your own")[2].partition("\n## ")[0]
METRIC, EXTRACTOR = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
ENTRY_POINTS = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)


BROKEN = {
    "magicvideo.metrics": {
        "other_name": "my_metrics:Brightness",
        "no_measure": "my_metrics:MeanColour",
        "absent": "my_metrics:Absent",
    },
    "magicvideo.extractors": {"broken": "builtins:dict"},
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a package with the plug-ins of the documentation, and broken ones, as pip installs one."""
    (tmp_path / "my_metrics.py").write_text(METRIC + EXTRACTOR)
    info = tmp_path / "bright_metrics-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bright-metrics\nVersion: 1.2\n")
    lines = []
    for block in ENTRY_POINTS:
        for group, names in tomllib.loads(block)["project"]["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {place}" for name, place in (names | BROKEN[group]).items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)


def test_what_the_documentation_asks_a_user_to_write_is_short() -> None:
    for code, declaration in zip((METRIC, EXTRACTOR), ENTRY_POINTS, strict=True):
        assert len((code + declaration).splitlines()) < 30


@pytest.mark.usefixtures("installed")
def test_a_metric_of_another_package_is_scored_and_its_origin_is_stamped(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor]
) -> None:
    clip = moving_texture(frames=8, size=32)
    path = encode(tmp_path / "a.mp4", clip)
    table = score_videos([path], metrics=["brightness", "speed"], progress=False)
    values = {row.metric: row for row in table.rows}
    assert values["brightness"].value == pytest.approx(float(clip.float().mean()), abs=2)
    assert "plugin:bright-metrics==1.2" in values["brightness"].signature
    assert "sampling:uniform:8" in values["brightness"].signature
    assert "brightness" in plugins.metric_names()


@pytest.mark.usefixtures("installed")
def test_an_extractor_of_another_package_gives_a_distance(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: Callable[..., Tensor]
) -> None:
    paths = [encode(tmp_path / f"{seed}.mp4", moving_texture(seed, frames=4, size=32)) for seed in range(3)]
    options = ScoreOptions(extractor="mean-colour")
    (item,) = score_videos(
        paths, metrics=["fvd"], reference_paths=paths, options=options, progress=False
    ).set_values
    assert item.value == pytest.approx(0, abs=1e-6)
    assert "extractor:mean-colour|plugin:bright-metrics==1.2" in item.signature


@pytest.mark.usefixtures("installed")
def test_a_plugin_that_breaks_the_contract_is_one_sentence() -> None:
    for name, words in (("other_name", "one entry in infos"), ("no_measure", "derived from Measure"),
                        ("absent", "cannot be loaded")):  # fmt: skip
        with pytest.raises(PluginError, match=words) as caught:
            metric_info(name)
        assert "bright-metrics==1.2" in str(caught.value)
    with pytest.raises(PluginError, match="cannot be made"):
        load_extractor("broken")


@pytest.mark.usefixtures("installed")
def test_names_of_other_packages_are_listed_with_ours() -> None:
    with pytest.raises(UnknownNameError, match=r"brightness.*temporal"):
        metric_info("beauty")
    with pytest.raises(UnknownNameError, match=r"embedded.*mean-colour"):
        load_extractor("c3d")
