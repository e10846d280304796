"""EDSC: the published network by names and sizes, its arithmetic, and narrow ones."""

from pathlib import Path

import pytest
import torch

from magicvideo.errors import MagicVideoError
from magicvideo.vfi.edsc import EDSC, HEADS, HetConv2d, load_published

torch.set_num_threads(1)

NARROW = {"widths": (8, 12, 16), "head_widths": (8, 8)}


@pytest.mark.parametrize(("multiple", "parameters"), [(False, 8_945_189), (True, 8_950_949)])
def test_published_width_has_the_published_size(multiple: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = EDSC(multiple=multiple)
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert len(model.state_dict()) == 270


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in EDSC().state_dict().items()}
    assert shapes["moduleConv1.0.weight"] == (32, 6, 3, 3)
    assert shapes["moduleConv5.4.conv3x3.weight"] == (512, 128, 3, 3)
    assert shapes["moduleDeconv5.0.conv1x1_.weight"] == (512, 128, 1, 1)
    assert shapes["moduleUpsample2.1.conv1x1.weight"] == (64, 64, 1, 1)
    assert shapes["moduleVertical1.0.weight"] == (64, 65, 3, 3)
    assert shapes["moduleOffset2y.7.weight"] == (25, 25, 3, 3)
    assert shapes["moduleMask2.7.bias"] == (25,)
    assert shapes["moduleBias.0.weight"] == (64, 64, 3, 3)


def test_dense_heterogeneous_convolution_equals_its_three_parts() -> None:
    torch.manual_seed(0)
    layer = HetConv2d(8, 12, groups=4).double()
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    expected = layer.conv3x3(x) + layer.conv1x1(x) - layer.conv1x1_(x)
    assert layer.dense
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_kernels_equal_the_heads_run_one_by_one() -> None:
    torch.manual_seed(0)
    model = EDSC(**NARROW).double()
    features = torch.randn(2, 12, 4, 4, dtype=torch.float64)
    time = torch.tensor([0.25, 0.5], dtype=torch.float64)
    plane = time.view(2, 1, 1, 1).expand(2, 1, 4, 4)
    for frame, (kernel, share) in enumerate(
        zip(model.kernels(features, time), (plane, 1 - plane), strict=True), 1
    ):
        x = torch.cat([features, share], 1)
        for name, part in zip(HEADS, kernel, strict=True):
            assert torch.allclose(part, model.get_submodule("module" + name.format(frame))(x), atol=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_starts_as_the_mean_of_both_frames(kernel_size: int) -> None:
    torch.manual_seed(0)
    model = EDSC(**NARROW, kernel_size=kernel_size)
    model.start_as_blend()
    for name, value in model.named_parameters():
        if ".7.weight" in name:
            torch.nn.init.zeros_(value)
    first, second = torch.rand(2, 1, 3, 16, 24)
    assert torch.allclose(model(first, second, torch.tensor([0.5])), (first + second) / 2, atol=1e-5)


def test_time_is_asked_for_exactly_when_it_is_used() -> None:
    model = EDSC(**NARROW, multiple=False)
    frame = torch.rand(1, 3, 8, 8)
    assert model(frame, frame).shape == frame.shape
    with pytest.raises(ValueError, match="multiple=True"):
        model(frame, frame, torch.tensor([0.5]))


def test_published_checkpoint_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = EDSC(multiple=False)
    torch.save({"model_state": model.state_dict()}, tmp_path / "EDSC_s.ckpt")
    loaded = load_published(tmp_path / "EDSC_s.ckpt", multiple=False)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_checkpoint_with_wrong_keys_is_refused_by_name(tmp_path: Path) -> None:
    state = EDSC(multiple=False).state_dict()
    state["moduleExtra.weight"] = state.pop("moduleBias.7.bias")
    torch.save({"model_state": state}, tmp_path / "EDSC_s.ckpt")
    with pytest.raises(MagicVideoError, match=r"moduleBias\.7\.bias, moduleExtra\.weight"):
        load_published(tmp_path / "EDSC_s.ckpt", multiple=False)
