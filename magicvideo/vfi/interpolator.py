"""Interpolators: whatever predicts frames between two keyframes, and the walk over a whole clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from magicvideo.vfi.dsepconv import doubled, dsepconv, kernel_sum
from magicvideo.vfi.edsc import EDSC, HEAD_WIDTHS, WIDTHS, Kernel
from magicvideo.vfi.ema import EMAVFI
from magicvideo.vfi.flow import CoarseFlow, warp
from magicvideo.vfi.refinement import refine_flow
from magicvideo.vfi.schedule import gap_times, num_output_frames
from magicvideo.vfi.vqgan import VQFlowNet


class Predictor(Protocol):
    """Predict frames between pairs of keyframes; times come together, so that work is shared between them."""

    def __call__(self, first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
        """Map two ``(N, 3, H, W)`` in [0, 1] and times in (0, 1) to ``(N, len(times), 3, H, W)``."""
        ...


def interpolate(frames: Tensor, factor: int, predict: Predictor, *, chunk: int = 1) -> Tensor:
    """Put ``factor - 1`` predicted frames into every gap of a clip; keyframes pass through untouched.

    Args:
        frames: ``(T, 3, H, W)`` floating point in [0, 1].
        factor: how many times as many frames per second.
        predict: makes the frames between.
        chunk: gaps predicted at once.

    Returns:
        ``((T - 1) * factor + 1, 3, H, W)`` in [0, 1].

    Raises:
        ValueError: ``frames`` is not such a clip, or ``factor`` is below 1.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"frames must be (T, 3, H, W) floating point in [0, 1], got {tuple(frames.shape)} {frames.dtype}"
        )
    output = frames.new_empty(num_output_frames(len(frames), factor), *frames.shape[1:])
    output[::factor] = frames
    times = gap_times(factor)
    if not times:
        return output
    for start in range(0, len(frames) - 1, chunk):
        stop = min(start + chunk, len(frames) - 1)
        between = predict(frames[start:stop], frames[start + 1 : stop + 1], times).clamp(0, 1)
        for index in range(len(times)):
            output[start * factor + 1 + index : stop * factor : factor] = between[:, index]
    return output


class _Keyframe(NamedTuple):
    """A keyframe, prepared once for every time beside it.

    Attributes:
        fine: ``(B, 3, H, W)`` or doubled, what pixels are read from.
        padded: sides are multiples of the interpolator's stride.
        small: ``padded``, reduced by ``scale``.
        features: of the VQ-GAN's encoder, from fine to coarse; none without codes.
        height: H.
        width: W.
    """

    fine: Tensor
    padded: Tensor
    small: Tensor
    features: list[Tensor]
    height: int
    width: int

    def part(self, rows: slice) -> _Keyframe:
        """Return some of the batch."""
        return self._replace(
            fine=self.fine[rows],
            padded=self.padded[rows],
            small=self.small[rows],
            features=[feature[rows] for feature in self.features],
        )


class Between(NamedTuple):
    """A frame between two keyframes and what it was made from.

    Attributes:
        frame: ``(B, 3, H, W)``, not clamped.
        coarse: ``(B, 3, h, w)`` in [0, 1], the flow part's own frame, sides padded, reduced by ``scale``.
        codebook_loss: scalar; 0 without VQ-GAN.
    """

    frame: Tensor
    coarse: Tensor
    codebook_loss: Tensor


class Interpolator(ModelMixin, ConfigMixin):
    """Flow, VQ-GAN and EDSC head combined: MagicVideo-V2's interpolator as we read its section 2.4.

    The paper names its parts (an EDSC head on a VQ-GAN, EMA-VFI as pretrained lightweight interpolator) and not
    how they meet. Here the flow part gives a coarse frame at time t and the displacement of its pixels into both
    keyframes. The coarse frame is encoded and quantised; the decoder cross-attends on every level to both
    keyframes' features, carried to t by the flow, and ends in the EDSC head, whose displacements are relative to
    the flow. The weight that a pixel's kernels leave over to 1 goes to the two moved keyframes, mixed as the flow
    part would and corrected by the decoder: flat regions keep their colour exactly.

    Codes and kernels are made from frames reduced by ``scale``, and enlarged; pixels come from full keyframes.

    Args:
        widths: channels of EDSC's levels; None for no EDSC network (then ``vqgan`` must be given). Beside a
            VQ-GAN this network is an ablation: the same head without codes.
        head_widths: channels inside EDSC's heads.
        kernel_size: points per side of a kernel; 5 as published.
        flow_widths: channels of `CoarseFlow` at 1/8 and 1/4.
        scale: how much smaller the frames are that codes and kernels are made from: 1, 2 or 4.
        vqgan: arguments of `VQFlowNet` but ``kernel_size``; None for EDSC alone on the flow.
        ema: arguments of `EMAVFI`, which takes the place of `CoarseFlow`; None for the latter.
        fine: whether keyframes are doubled before they are moved, which keeps their sharpness.
        refine: whether what `CoarseFlow` leaves over is measured between the moved keyframes, see `refine_flow`.

    Raises:
        ValueError: Neither ``widths`` nor ``vqgan`` is given.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        widths: tuple[int, ...] | None = WIDTHS,
        head_widths: tuple[int, int] = HEAD_WIDTHS,
        kernel_size: int = 5,
        flow_widths: tuple[int, int] = (48, 24),
        scale: int = 2,
        vqgan: dict[str, Any] | None = None,
        ema: dict[str, Any] | None = None,
        fine: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        if widths is None and vqgan is None:
            raise ValueError("an interpolator needs vqgan, widths (of an EDSC network), or both")
        self.flow = CoarseFlow(flow_widths) if ema is None else EMAVFI(**ema)
        self.edsc = None if widths is None else _edsc(widths, head_widths, kernel_size)
        self.generator, self.fusion = None, None
        if vqgan is not None:
            self.generator = VQFlowNet(kernel_size=kernel_size, **vqgan)
            self.generator.decoder.start_at_rest()
            self.fusion = nn.Conv2d(self.generator.decoder.conv_out.out_channels, 1, 3, padding=1)
            for value in self.fusion.parameters():
                nn.init.zeros_(value)

    @property
    def stride(self) -> int:
        """Sides are padded to multiples of this."""
        strides = [part.stride for part in (self.edsc, self.generator) if part is not None]
        return max(8, int(self.config.scale) * max(strides))

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        """Return the frame ``(B, 3, H, W)`` at ``time`` ``(B,)``, not clamped."""
        return self.between(first, second, time).frame

    def between(self, first: Tensor, second: Tensor, time: Tensor, *, codes: bool = True) -> Between:
        """Make the frame at a time of its own for each pair, with gradients.

        Args:
            first: ``(B, 3, H, W)`` in [0, 1], any size.
            second: ``(B, 3, H, W)``.
            time: ``(B,)`` in (0, 1).
            codes: kernels from the VQ-GAN where there is one; False for those of the EDSC network.
        """
        one, two = self._keyframe(first, codes), self._keyframe(second, codes)
        return self._between(one, two, time, self._motion(one, two, time))

    @torch.no_grad()
    def predict(
        self, first: Tensor, second: Tensor, times: tuple[float, ...], *, codes: bool = True
    ) -> Tensor:
        """Predict frames between pairs of keyframes, see `Predictor`; each keyframe is encoded once."""
        one, two = self._keyframes(first, second, codes)
        clocks = [first.new_full((len(first),), time) for time in times]
        motions = self._motions(one, two, times, clocks)
        frames = [
            self._between(one, two, clock, motion).frame
            for clock, motion in zip(clocks, motions, strict=True)
        ]
        return torch.stack(frames, 1)

    @torch.no_grad()
    def predict_flow(self, first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
        """Predict by the flow part alone, see `Predictor`: keyframes moved to the time and mixed."""
        if isinstance(self.flow, EMAVFI):
            return self.flow.predict(first.to(self.dtype), second.to(self.dtype), times).to(first.dtype)
        one, two = self._keyframes(first, second, codes=False)
        frames = []
        for time in times:
            flow, share = self._motion(one, two, first.new_full((len(first),), time))
            small = _resized(torch.cat([flow, share], 1), one.small.shape[2:])
            frames.append(_mixed(one, two, *_enlarged(small, one).split([4, 1], 1)))
        return torch.stack(frames, 1)

    def interpolate(self, frames: Tensor, factor: int = 3, *, chunk: int = 1) -> Tensor:
        """Interpolate a clip ``(T, 3, H, W)`` in [0, 1], see `interpolate`."""
        return interpolate(frames, factor, self.predict, chunk=chunk)

    def _keyframes(self, first: Tensor, second: Tensor, codes: bool) -> tuple[_Keyframe, _Keyframe]:
        """Prepare both keyframes of each gap; in a row of gaps, each shared keyframe once."""
        if len(first) == 1 or not torch.equal(first[1:], second[:-1]):
            return self._keyframe(first, codes), self._keyframe(second, codes)
        row = self._keyframe(torch.cat([first, second[-1:]]), codes)
        return row.part(slice(None, -1)), row.part(slice(1, None))

    def _keyframe(self, frame: Tensor, codes: bool) -> _Keyframe:
        padded = _padded(frame, self.stride)
        small = F.avg_pool2d(padded, int(self.config.scale))
        features = (
            self.generator.encode((2 * small - 1).to(self.dtype)).features
            if self.generator is not None and codes
            else []
        )
        fine = doubled(frame) if self.config.fine else frame
        return _Keyframe(fine, padded, small, features, *frame.shape[2:])

    def _motions(
        self, first: _Keyframe, second: _Keyframe, times: tuple[float, ...], clocks: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return flow and share for each of several times; EMA-VFI compares the keyframes once for all."""
        if not isinstance(self.flow, EMAVFI):
            return [self._motion(first, second, clock) for clock in clocks]
        estimates = self.flow.estimates(first.padded.to(self.dtype), second.padded.to(self.dtype), times)
        return [(found.flow, (1 - found.mask).to(found.flow.dtype)) for found in estimates]

    def _motion(self, first: _Keyframe, second: _Keyframe, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow ``(B, 4, h, w)`` in pixels of the keyframes and the share of the second ``(B, 1, h, w)``."""
        if isinstance(self.flow, EMAVFI):
            estimate = self.flow(first.padded.to(self.dtype), second.padded.to(self.dtype), time)
            return estimate.flow, (1 - estimate.mask).to(estimate.flow.dtype)
        flow = self.flow(first.padded.to(self.dtype), second.padded.to(self.dtype), time).to(time.dtype)
        if self.config.refine:
            flow = refine_flow(first.padded.to(flow.dtype), second.padded.to(flow.dtype), flow, time)
        return flow, time.to(flow.dtype).view(-1, 1, 1, 1).expand(-1, 1, *flow.shape[2:])

    def _between(
        self, first: _Keyframe, second: _Keyframe, time: Tensor, motion: tuple[Tensor, Tensor]
    ) -> Between:
        flow, share = motion
        small = _resized(torch.cat([flow, share], 1), first.small.shape[2:])
        near, far = _moved(first.small, first, small[:, :2]), _moved(second.small, second, small[:, 2:4])
        coarse = torch.lerp(near, far, small[:, 4:])
        if self.generator is not None and first.features:
            codes = self.generator.encode((2 * coarse - 1).to(self.dtype)).codes
            one = [_moved(feature, first, flow[:, :2]) for feature in first.features]
            two = [_moved(feature, second, flow[:, 2:]) for feature in second.features]
            made, loss = self.generator.decode(codes, one, two)
            kernels, residual, mix = (
                (made.near, made.far),
                made.residual,
                self._mix(small[:, 4:], made.features),
            )
        else:
            kernels, residual, mix = self._edsc_kernels(near, far, time), None, small[:, 4:]
            loss = mix.new_zeros(())
        return Between(_resample(first, second, kernels, small[:, :4], mix, residual), coarse, loss)

    def _mix(self, share: Tensor, features: Tensor) -> Tensor:
        """Correct the flow part's share of the second keyframe by what the decoder knows."""
        assert self.fusion is not None
        return torch.sigmoid(torch.logit(share, 1e-4) + self.fusion(features))

    def _edsc_kernels(self, near: Tensor, far: Tensor, time: Tensor) -> tuple[Kernel, Kernel]:
        if self.edsc is None:
            raise ValueError("this interpolator was built without an EDSC network of its own (widths=None)")
        return self.edsc.kernels(self.edsc.features(near.to(self.dtype), far.to(self.dtype)), time)


def edsc_predictor(model: EDSC) -> Predictor:
    """Return EDSC alone as a predictor, run as published: B, G, R channels, sides padded to its stride.

    The predictor raises ValueError for a time other than 1/2 where the network knows only the middle frame.
    """

    @torch.no_grad()
    def predict(first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
        if not model.multiple and set(times) != {0.5}:
            raise ValueError(f"this EDSC network knows only the middle frame (t = 0.5), got {times}")
        height, width = first.shape[-2:]
        weights = next(model.parameters())
        one, two = (_padded(frame.flip(1).to(weights.dtype), model.stride) for frame in (first, second))
        frames = [
            model(one, two, one.new_full((len(first),), time) if model.multiple else None) for time in times
        ]
        return torch.stack(frames, 1).flip(2)[..., :height, :width].to(first.dtype)

    return predict


def _edsc(widths: Sequence[int], head_widths: Sequence[int], kernel_size: int) -> EDSC:
    network = EDSC(
        widths=tuple(widths),
        head_widths=(head_widths[0], head_widths[1]),
        kernel_size=kernel_size,
        use_bias=False,
    )
    network.start_as_blend(0.2)
    return network


def _moved(x: Tensor, keyframe: _Keyframe, flow: Tensor) -> Tensor:
    """Move what was made from a keyframe by a flow ``(B, 2, h, w)`` in the keyframe's pixels."""
    share = x.shape[-1] / keyframe.padded.shape[-1]
    return warp(x.to(flow.dtype), _resized(flow, x.shape[2:]) * share).to(x.dtype)


def _mixed(first: _Keyframe, second: _Keyframe, flow: Tensor, share: Tensor) -> Tensor:
    """Mix both keyframes, moved by ``flow`` ``(B, 4, H, W)``, the second by ``share`` ``(B, 1, H, W)``.

    Detail that the keyframes do not share, as generated ones, cancels in a mean. It is turned from one to the other by
    the angle between them (slerp; Shoemake 1985): it keeps its power, and equal times are equal steps.
    """
    near, far = warp(first.fine, flow[:, :2], "bicubic"), warp(second.fine, flow[:, 2:], "bicubic")
    one, two = _detail(near), _detail(far)
    angle = _angle(one, two)
    turned = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * two) / torch.sin(angle)
    return torch.lerp(near - one, far - two, share) + turned


def _angle(one: Tensor, two: Tensor) -> Tensor:
    """Return the angle between details ``(B, 1, H, W)``, from almost none, where slerp is a mean, to a right one."""
    product, power = _box((one * two).mean(1, keepdim=True)), (_power(one) * _power(two)).sqrt()
    return torch.acos((product / (power + 1e-7)).clamp(0, 0.9999))


def _detail(x: Tensor) -> Tensor:
    return x - _box(x)


def _power(detail: Tensor) -> Tensor:
    return _box(detail.square().mean(1, keepdim=True))


def _box(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _resample(
    first: _Keyframe,
    second: _Keyframe,
    kernels: tuple[Kernel, Kernel],
    flow: Tensor,
    share: Tensor,
    residual: Tensor | None,
) -> Tensor:
    """Make the frame; kernels, ``flow``, ``share`` and ``residual`` are enlarged from the reduced size.

    Positions are computed in float32 at least: bfloat16 knows none beyond 256 exactly.
    """
    parts = [*_carried(kernels[0], flow[:, :2]), *_carried(kernels[1], flow[:, 2:]), flow, share]
    parts += [] if residual is None else [residual]
    exact = torch.promote_types(flow.dtype, torch.float32)
    large = _enlarged(torch.cat([part.to(exact) for part in parts], 1), first)
    large_parts = large.split([part.shape[1] for part in parts], 1)
    near, far = Kernel(*large_parts[:5]), Kernel(*large_parts[5:10])
    one, two = (key._replace(fine=key.fine.to(exact)) for key in (first, second))
    rest = 1 - sum(kernel_sum(kernel.vertical, kernel.horizontal, kernel.mask) for kernel in (near, far))
    frame = dsepconv(one.fine, *near) + dsepconv(two.fine, *far)
    frame = frame + rest * _mixed(one, two, large_parts[10], large_parts[11])
    return (frame if residual is None else frame + large_parts[12] / 2).to(first.fine.dtype)


def _carried(kernel: Kernel, flow: Tensor) -> Kernel:
    return kernel._replace(dy=kernel.dy + flow[:, :1], dx=kernel.dx + flow[:, 1:])


def _padded(frame: Tensor, stride: int) -> Tensor:
    height, width = frame.shape[-2:]
    return F.pad(frame, (0, -width % stride, 0, -height % stride), mode="replicate")


def _enlarged(x: Tensor, keyframe: _Keyframe) -> Tensor:
    """Enlarge from the reduced size to that of the keyframe; of the padding only what is needed."""
    scale = keyframe.padded.shape[-1] // keyframe.small.shape[-1]
    rows, columns = -(-keyframe.height // scale), -(-keyframe.width // scale)
    large = _resized(x[..., :rows, :columns], (rows * scale, columns * scale))
    return large[..., : keyframe.height, : keyframe.width]


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    height, width = x.shape[2:]
    if (height, width) == tuple(size):
        return x
    if height > size[0]:
        return F.interpolate(x, tuple(size), mode="area")
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
