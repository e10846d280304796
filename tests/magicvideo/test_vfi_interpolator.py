"""The interpolator over clips: geometry, what passes through, saving and loading."""

import copy
import math
from pathlib import Path

import pytest
import torch

from magicvideo.errors import MagicVideoError
from magicvideo.vfi.baselines import fade, hold, predictor
from magicvideo.vfi.dsepconv import doubled
from magicvideo.vfi.edsc import EDSC
from magicvideo.vfi.flow import warp
from magicvideo.vfi.interpolator import Interpolator, edsc_predictor, interpolate
from magicvideo.vfi.quality import cadence_ratio

torch.set_num_threads(1)


CODES = {
    "channels": 8,
    "multipliers": (1, 2),
    "n_embed": 16,
    "window": 2,
    "head_channels": 8,
    "norm_groups": 4,
    "head_widths": (4, 4),
    "use_residual": False,
}
SMALL = {"widths": (4, 8), "head_widths": (4, 4), "kernel_size": 3, "flow_widths": (8, 4)}


def _wild(model: Interpolator) -> Interpolator:
    """Give weights that start at zero other values, so that every part has a say."""
    for part in (model.flow, model.fusion, model.generator):
        for value in part.parameters() if part is not None else ():
            torch.nn.init.normal_(value, std=0.1)
    return model.eval()


@pytest.fixture(scope="module", params=["edsc on flow", "vq-gan on flow"])
def model(request: pytest.FixtureRequest) -> Interpolator:
    torch.manual_seed(0)
    if request.param == "edsc on flow":
        return _wild(Interpolator(**SMALL))
    return _wild(Interpolator(**SMALL, vqgan=CODES, fine=True))


@pytest.fixture(scope="module")
def combined() -> Interpolator:
    torch.manual_seed(0)
    return _wild(Interpolator(**SMALL, vqgan=CODES, fine=True))


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
    assert torch.allclose(model.interpolate(clip, chunk=1), model.interpolate(clip, chunk=3), atol=1e-4)


def test_flat_colour_stays_whatever_the_weights(model: Interpolator) -> None:
    clip = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 24, 24)
    assert torch.allclose(model.interpolate(clip), clip[:1].expand(4, -1, -1, -1), atol=1e-5)


def test_a_keyframe_shared_by_two_gaps_is_encoded_once(
    combined: Interpolator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    encode = combined.generator.encode
    monkeypatch.setattr(combined.generator, "encode", lambda frame: sizes.append(len(frame)) or encode(frame))
    combined.interpolate(_clip(4), 3, chunk=3)
    assert sizes == [4, 3, 3]  # four keyframes, then a coarse frame for every gap at 1/3 and at 2/3


def test_untrained_it_is_its_flow_part() -> None:
    """Kernels start without weight and the mask without say: what is left are the moved keyframes."""
    torch.manual_seed(0)
    model = Interpolator(**SMALL, vqgan=CODES, fine=True).eval()
    for value in model.flow.parameters():
        torch.nn.init.normal_(value, std=0.1)
    for name, head in model.generator.decoder.heads().items():
        if name.startswith("moduleKernel"):
            torch.nn.init.zeros_(head.get_parameter("6.weight"))
    clip = _clip(2)
    combined, flow = model.interpolate(clip), interpolate(clip, 3, model.predict_flow)
    assert torch.allclose(combined, flow, atol=1e-4)


def test_a_doubled_frame_is_read_as_the_frame_itself() -> None:
    frame = _clip(1)
    still = torch.zeros(1, 2, 24, 40)
    assert doubled(frame).shape == (1, 3, 47, 79)
    assert torch.equal(doubled(frame)[..., ::2, ::2], frame)
    assert torch.allclose(warp(doubled(frame), still), frame, atol=1e-5)


def test_a_fine_wave_moved_by_half_a_pixel_keeps_its_height_when_doubled() -> None:
    columns = torch.arange(60.0)
    wave, moved = (0.5 + 0.4 * (2 * math.pi * x / 3).cos() for x in (columns, columns + 0.5))
    frame = wave.expand(1, 3, 20, 60)
    flow = torch.zeros(1, 2, 20, 60)
    flow[:, 1] = 0.5
    plain, fine = (
        (warp(source, flow, "bicubic")[0, 0, 10] - moved)[8:-8].abs().max()
        for source in (frame, doubled(frame))
    )
    assert float(plain) > 0.08
    assert float(fine) < 0.02


@pytest.mark.parametrize("codes", [True, False])
def test_half_precision_weights_take_full_precision_frames(combined: Interpolator, codes: bool) -> None:
    clip = _clip(2)
    half = copy.deepcopy(combined).to(torch.bfloat16)
    made = half.predict(clip[:1], clip[1:], (0.5,), codes=codes)
    assert made.dtype == torch.float32
    assert bool(made.isfinite().all())


def test_every_kind_by_its_name(combined: Interpolator) -> None:
    clip = _clip(2)
    pair = (clip[:1], clip[1:], (1 / 3, 2 / 3))
    made = {kind: predictor(kind, combined)(*pair) for kind in ("combined", "ema", "edsc", "blend", "repeat")}
    assert torch.equal(made["combined"], combined.predict(*pair))
    assert torch.equal(made["ema"], combined.predict_flow(*pair))
    assert torch.equal(made["edsc"], combined.predict(*pair, codes=False))
    assert torch.equal(made["blend"], fade(*pair))
    assert torch.equal(made["repeat"], hold(*pair))
    assert len({tuple(value.flatten()[:50].tolist()) for value in made.values()}) == 5


def test_kind_without_its_network_is_refused() -> None:
    model = Interpolator(widths=None, vqgan=CODES, kernel_size=3, flow_widths=(8, 4))
    with pytest.raises(MagicVideoError, match="no EDSC network"):
        predictor("edsc", model)
    with pytest.raises(ValueError, match="needs vqgan, widths"):
        Interpolator(widths=None)


def test_small_ema_vfi_takes_the_place_of_the_flow() -> None:
    torch.manual_seed(0)
    ema = {"width": 4, "depths": (1, 1, 1, 1, 1)}
    model = Interpolator(widths=None, vqgan=CODES, kernel_size=3, scale=1, ema=ema, fine=True).eval()
    clip = _clip(2, 32, 32)
    pair = (clip[:1], clip[1:], (0.5,))
    assert torch.equal(predictor("ema", model)(*pair), model.flow.predict(*pair))
    assert model.predict(*pair).shape == (1, 1, 3, 32, 32)


def test_paper_scale_is_built_and_run_on_meta_tensors() -> None:
    """VQ-FIGAN as published on EMA-VFI small (14.49 M), whole frames of 1048 pixels."""
    with torch.device("meta"):
        model = Interpolator(widths=None, scale=1, vqgan={}, ema={"width": 16, "depths": (2,) * 5}, fine=True)
        frame = torch.zeros(1, 3, 1048, 1048)
        encoded = model.generator.encode(torch.zeros(1, 3, 1056, 1056))
        made, _ = model.generator.decode(encoded.codes, encoded.features, encoded.features)
    assert sum(value.numel() for value in model.flow.parameters()) == pytest.approx(14.49e6, rel=1e-3)
    assert model.stride == 32
    assert made.near.dy.shape == (1, 25, 1056, 1056)
    assert frame.shape[-1] + -1048 % model.stride == 1056


def test_time_matters(model: Interpolator) -> None:
    clip = _clip(2)
    output = model.interpolate(clip, 3)
    assert (output[1] - output[2]).abs().mean() > 1e-3


def test_saved_in_half_precision_and_loaded_in_full(model: Interpolator, tmp_path: Path) -> None:
    half = Interpolator(**{key: value for key, value in model.config.items() if not key.startswith("_")})
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(tmp_path)
    loaded = Interpolator.from_pretrained(tmp_path, torch_dtype=torch.float32)
    expected = half.float().state_dict()
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


def test_a_mixed_frame_keeps_the_power_of_detail_that_keyframes_do_not_share_in_equal_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (0.5 + 0.02 * torch.randn(1, 3, 64, 64, generator=generator) for _ in range(2))
    model = Interpolator(**SMALL).eval()  # its flow starts at zero
    between, *thirds = model.predict_flow(first, second, (0.5, 1 / 3, 2 / 3)).unbind(1)
    detail = [frame[..., 4:-4, 4:-4].std().item() for frame in (first, second, between)]
    assert detail[2] == pytest.approx(sum(detail[:2]) / 2, rel=0.1)
    assert ((first + second) / 2).std().item() < 0.75 * detail[0]  # what a mean keeps
    assert cadence_ratio(torch.stack([first, *thirds, second], 1)).item() == pytest.approx(1, abs=0.03)
