"""Likeness over time: closed forms, VBench's published totals, and that a still video has no score."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision.models.optical_flow import raft_small

from metrics.consistency import (
    BackgroundConsistency,
    DynamicDegree,
    IdentityDrift,
    LongHorizon,
    MotionSmoothness,
    SubjectConsistency,
    WarpingError,
)
from metrics.encoders import FrameEncoder, load_encoder
from metrics.errors import UnknownNameError, WeightsError
from metrics.functional import (
    drift_curve,
    flow_interpolator,
    frame_consistency,
    horizon_curve,
    identity_drift,
    motion_smoothness,
    vbench_totals,
    warping_error,
)
from metrics.functional.consistency import still_parts
from metrics.functional.vbench import dynamic_degree, temporal_flickering
from metrics.per_video import PerVideoMetric
from metrics.raft import RaftFlow
from metrics.registry import FAMILIES
from metrics.scorer import ScoreOptions, score_videos

MakeClip = Callable[..., Tensor]
DATA = Path(__file__).parents[1] / "data"


def turning(count: int, step: float) -> Tensor:
    """Return unit vectors each ``step`` radians further than the one before."""
    angles = step * torch.arange(count).double()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_curves_of_an_embedding_that_turns_evenly() -> None:
    embeddings = 3 * turning(60, 0.02)
    angles = 0.02 * torch.arange(1, 60).double()
    assert torch.allclose(drift_curve(embeddings), angles.cos())
    curve = horizon_curve(embeddings)
    assert list(curve) == [2, 5, 10, 20, 50]
    for lag, value in curve.items():
        assert value == pytest.approx(torch.tensor(0.02 * lag).cos().item())
    expected = (0.02 * torch.ones(59)).cos().add(angles.cos()).mean() / 2
    assert float(frame_consistency(embeddings)) == pytest.approx(float(expected), rel=1e-6)


def test_a_negative_cosine_counts_nothing_in_the_formula_of_vbench() -> None:
    assert float(frame_consistency(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))) == 0


def test_curves_need_two_frames() -> None:
    for function in (drift_curve, horizon_curve, frame_consistency):
        with pytest.raises(ValueError, match="at least 2"):
            function(torch.ones(1, 4))


@pytest.mark.parametrize(
    "row", list(csv.DictReader((DATA / "vbench_leaderboard_rows.csv").read_text().splitlines()))
)
def test_the_published_totals_of_vbench_are_reproduced(row: dict[str, str]) -> None:
    """Rows of VBench's leaderboard (facts), constants of Vchitect/VBench at 45e79ec (Apache-2.0)."""
    published = {key: float(row[key]) for key in ("quality", "semantic", "total")}
    values = {key: float(text) / 100 for key, text in row.items() if key not in (*published, "model")}
    totals = vbench_totals(values)
    for key, value in published.items():
        assert 100 * totals[key] == pytest.approx(value, abs=0.01)


def test_totals_need_all_dimensions() -> None:
    with pytest.raises(ValueError, match=r"missing: .*aesthetic_quality"):
        vbench_totals({"color": 0.5})


def test_temporal_flickering_has_its_closed_form() -> None:
    steps = torch.tensor([0, 10, 40], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert float(temporal_flickering(steps)) == pytest.approx((255 - 20) / 255)


@pytest.mark.parametrize(("moving", "verdict"), [(7, False), (8, True)])
def test_dynamic_degree_follows_the_rule_of_vbench(moving: int, verdict: bool) -> None:
    """94 frames at 24 per second thin out to 32; a quarter of them, 8, must move by more than 6/256 of the side."""
    calls = iter(range(31))

    def flow(a: Tensor, b: Tensor) -> Tensor:
        fast = 6.1 if next(calls) < moving else 5.9
        field = torch.zeros(1, 2, 256, 256)
        field[:, 0, :13] = fast  # just over 5 % of the rows
        return field

    video = torch.zeros(94, 3, 256, 256, dtype=torch.uint8)
    assert dynamic_degree(video, 24, flow) is verdict


def test_motion_smoothness_through_any_interpolator(moving_texture: MakeClip) -> None:
    clip = moving_texture(frames=7, step=1.0)
    by_flow = float(motion_smoothness(clip, flow_interpolator))
    by_fading = float(motion_smoothness(clip, lambda a, b: (a + b) / 2))
    assert 0.9 < by_fading < by_flow < 1
    flat = torch.tensor([0, 60, 100], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    assert float(motion_smoothness(flat, lambda a, b: (a + b) / 2)) == pytest.approx(1 - 10 / 255)


def test_warping_error_of_flat_steps_has_its_closed_form_and_rises_with_flicker(
    moving_texture: MakeClip,
) -> None:
    flat = torch.tensor([0, 51], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert float(warping_error(flat)) == pytest.approx(3 * 0.2**2, rel=1e-5)
    clip = moving_texture(frames=6)
    gain = torch.tensor([1, 0.9, 1.05, 0.92, 1.03, 0.95]).view(-1, 1, 1, 1)
    assert float(warping_error((clip * gain).round().clamp(0, 255).byte())) > 3 * float(warping_error(clip))


class Thumbnail(FrameEncoder):
    """A 4 x 4 thumbnail: an encoder that sees where things are."""

    dim, provenance = 48, "encoder:thumbnail"

    def forward(self, frames: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(frames.float(), 4).flatten(1)


CLASSES: dict[str, Callable[[], PerVideoMetric]] = {
    "subject": lambda: SubjectConsistency(Thumbnail()),
    "background": lambda: BackgroundConsistency(Thumbnail()),
    "drift": lambda: IdentityDrift(Thumbnail()),
    "horizon": lambda: LongHorizon(Thumbnail()),
    "smoothness": MotionSmoothness,
    "warping": WarpingError,
}


@pytest.mark.parametrize("build", CLASSES.values(), ids=CLASSES)
def test_a_class_has_one_value_per_moving_video_however_they_come(
    build: Callable[[], PerVideoMetric], moving_texture: MakeClip
) -> None:
    first, second = (moving_texture(seed, frames=13, size=48) for seed in (0, 1))
    still = first[:1].expand_as(first)
    whole, left, right = build(), build(), build()
    whole.update(torch.stack([first, still, second]), fps=10)
    left.update([first], fps=10)
    right.update([still, second], fps=10)
    left.merge_state(right)
    assert left.values()[left.values().isnan()].numel() == 1
    assert whole.values()[1].isnan()
    found = sorted(left.values()[~left.values().isnan()].tolist())
    assert found == pytest.approx(sorted(whole.values()[[0, 2]].tolist()), rel=1e-6)
    assert float(whole.compute()) == pytest.approx(sum(found) / 2)
    whole.reset()
    assert len(whole.values()) == 0


def test_a_static_video_is_measured_if_asked_and_a_short_one_has_no_horizon(moving_texture: MakeClip) -> None:
    clip = moving_texture(frames=8)
    theirs, horizon = SubjectConsistency(Thumbnail(), count_static=True), LongHorizon(Thumbnail())
    theirs.update([clip[:1].expand_as(clip)], fps=10)
    horizon.update([clip], fps=10)
    assert float(theirs.compute()) == pytest.approx(1)
    assert horizon.values()[0].isnan()


def test_a_class_is_its_pure_function(moving_texture: MakeClip) -> None:
    clip = moving_texture(frames=13, size=48)
    embeddings = Thumbnail()(clip)
    expected = {
        "subject": frame_consistency(embeddings),
        "drift": identity_drift(embeddings),
        "horizon": horizon_curve(embeddings, [10])[10],
        "smoothness": motion_smoothness(clip, flow_interpolator),
        "warping": warping_error(clip),
    }
    for name, value in expected.items():
        metric = CLASSES[name]()
        metric.update([clip], fps=10)
        assert float(metric.compute()) == pytest.approx(float(value), rel=1e-6), name


def test_drift_is_that_of_the_last_quarter() -> None:
    embeddings = turning(12, 0.1)
    assert float(identity_drift(embeddings)) == pytest.approx(
        1 - sum(torch.tensor(0.1 * t).cos().item() for t in (9, 10, 11)) / 3
    )


def test_the_background_is_what_moves_least(moving_texture: MakeClip) -> None:
    texture = moving_texture(seed=3, frames=1, size=64)[0]
    clip = texture.repeat(10, 1, 1, 1)
    for t in range(10):
        clip[t, :, :24] = texture[:, :24].roll(2 * t, -1)
    kept = still_parts(clip)
    assert (kept[:, :, 40:] == clip[:, :, 40:]).float().mean() > 0.75
    assert (kept[:, :, 4:20] == 127).float().mean() > 0.9
    background, subject = BackgroundConsistency(Thumbnail()), SubjectConsistency(Thumbnail())
    for metric in (background, subject):
        metric.update([clip], fps=10)
    assert float(background.compute()) > float(subject.compute())


def test_dynamic_degree_is_the_speed_of_the_fastest_part_at_eight_frames_per_second() -> None:
    def flow(a: Tensor, b: Tensor) -> Tensor:
        field = torch.zeros(len(a), 2, 64, 48)
        field[:, 0, :4] = 3.0  # 1/16 of the rows: more than a twentieth
        return field

    video = torch.zeros(25, 3, 64, 48, dtype=torch.uint8)
    for fps, rate in ((24, 8), (6, 6)):
        metric = DynamicDegree(flow)
        metric.update([video], fps=fps)
        assert float(metric.compute()) == pytest.approx(100 * rate * 3 / 80)
    metric.update([video[:1]], fps=6)
    assert metric.values()[1].isnan()


def test_files_have_curves_and_a_static_one_only_its_dynamic_degree(
    tmp_path: Path, encode: Callable[..., Path], moving_texture: MakeClip, tiny_clip: Path
) -> None:
    clip = moving_texture(frames=14)
    paths = [encode(tmp_path / "a.mp4", clip), encode(tmp_path / "b.mp4", clip[:1].expand_as(clip))]
    options = ScoreOptions(encoder="clip", encoder_weights=f"local-dir:{tiny_clip}")
    table = score_videos(paths, metrics=["consistency", "vbench"], options=options, progress=False)
    rows = {(row.path.stem, row.metric): row for row in table.rows}
    for info in FAMILIES["consistency"]:
        assert rows["a", info.name].value is not None
        if info.name != "dynamic_degree":
            assert rows["b", info.name].reason == "the video is static"
    drift, horizon = rows["a", "identity_drift"], rows["a", "long_horizon"]
    assert drift.curve is not None
    assert len(drift.curve) == 13
    assert drift.curve[0][0] == pytest.approx(0.1)
    assert horizon.curve is not None
    assert [x for x, _ in horizon.curve] == pytest.approx([0.2, 0.5, 1.0])
    assert table.to_dict()["rows"][0]["curve"]
    assert rows["b", "vbench_temporal_flickering"].value == pytest.approx(1, abs=1e-3)
    assert "dino_vitbase16" in (rows["a", "vbench_subject_consistency"].reason or "")


def test_dino_takes_the_published_format_and_frames_of_any_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VisionTransformer(patch_size=16, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    encoder = load_encoder("dino", str(tmp_path / "dino.pth"))
    frames = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).byte()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network.eval()((frames / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert torch.allclose(encoder(frames), expected, atol=1e-4)
    assert encoder(frames[..., :100, :180]).shape == (2, 64)


def test_encoders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="dinov2"):
        load_encoder("inception")
    with pytest.raises(WeightsError, match="needs weights"):
        load_encoder("dino")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="dino_vitbase16"):
        load_encoder("dino", str(tmp_path / "other.pth"))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_encoder("dinov2", str(tmp_path))


def test_raft_takes_the_place_of_the_flow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = raft_small(weights=None)
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    flow = RaftFlow("raft_small", tmp_path / "raft.pth", iterations=1)
    a, b = torch.rand(2, 1, 128, 136, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        pair = [x[:, None].expand(-1, 3, -1, -1) / 127.5 - 1 for x in (a, b)]
        expected = network.eval()(*pair, num_flow_updates=1)[-1]
    assert torch.allclose(flow(a, b), expected, atol=1e-4)
    assert flow(a[:, :60, :70], b[:, :60, :70]).shape == (1, 2, 60, 70)
    with pytest.raises(WeightsError, match="does not hold"):
        RaftFlow("raft_large", tmp_path / "raft.pth")
