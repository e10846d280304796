"""The interpolator over clips: geometry, what passes through, saving and loading."""

from pathlib import Path

import pytest
import torch

from magicvideo.vfi.edsc import EDSC
from magicvideo.vfi.interpolator import Interpolator, edsc_predictor, interpolate

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Interpolator:
    torch.manual_seed(0)
    model = Interpolator(widths=(4, 8), head_widths=(4, 4), kernel_size=3, flow_widths=(8, 4))
    for value in model.flow.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return model.eval()


def _clip(count: int, height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("keyframes", "factor", "frames"), [(32, 3, 94), (32, 2, 63), (3, 5, 11), (1, 3, 1)])
def test_frames_between_keyframes(model: Interpolator, keyframes: int, factor: int, frames: int) -> None:
    clip = _clip(keyframes, 8, 8)
    output = model.interpolate(clip, factor, chunk=4)
    assert output.shape == (frames, 3, 8, 8)
    assert torch.equal(output[::factor], clip)
    assert output.min() >= 0
    assert output.max() <= 1


def test_any_size_works(model: Interpolator) -> None:
    clip = _clip(2, 21, 35)
    assert model.interpolate(clip).shape == (4, 3, 21, 35)


def test_chunks_do_not_change_the_frames(model: Interpolator) -> None:
    clip = _clip(4)
    assert torch.allclose(model.interpolate(clip, chunk=1), model.interpolate(clip, chunk=3), atol=1e-5)


def test_flat_colour_stays_whatever_the_weights(model: Interpolator) -> None:
    clip = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 24, 24)
    assert torch.allclose(model.interpolate(clip), clip[:1].expand(4, -1, -1, -1), atol=1e-5)


def test_time_matters(model: Interpolator) -> None:
    clip = _clip(2)
    output = model.interpolate(clip, 3)
    assert (output[1] - output[2]).abs().mean() > 1e-3


def test_saved_in_half_precision_and_loaded_in_full(model: Interpolator, tmp_path: Path) -> None:
    half = Interpolator(**{key: value for key, value in model.config.items() if not key.startswith("_")})
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(tmp_path)
    loaded = Interpolator.from_pretrained(tmp_path, torch_dtype=torch.float32)
    expected = {key: value.half().float() for key, value in model.state_dict().items()}
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert loaded.config["widths"] == [4, 8]


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)]
)
def test_a_clip_of_another_shape_is_refused(model: Interpolator, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be \(T, 3, H, W\)"):
        model.interpolate(bad)


@pytest.mark.parametrize("multiple", [True, False])
def test_edsc_alone_sees_blue_green_red_and_padded_frames(multiple: bool) -> None:
    torch.manual_seed(0)
    network = EDSC(widths=(4, 8), head_widths=(4, 4), multiple=multiple)
    clip = _clip(2, 8, 10)
    time = torch.tensor([0.5]) if multiple else None
    first, second = (
        torch.nn.functional.pad(frame.flip(0)[None], (0, 2, 0, 0), mode="replicate") for frame in clip
    )
    expected = network(first, second, time)[..., :10].flip(1)
    assert torch.allclose(edsc_predictor(network)(clip[:1], clip[1:], (0.5,))[:, 0], expected, atol=1e-6)


def test_network_of_the_middle_frame_refuses_thirds() -> None:
    network = EDSC(widths=(4, 8), head_widths=(4, 4), multiple=False)
    with pytest.raises(ValueError, match="only the middle frame"):
        interpolate(_clip(2), 3, edsc_predictor(network))
