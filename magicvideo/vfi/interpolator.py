"""Interpolators: whatever predicts frames between two keyframes, and the walk over a whole clip."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from magicvideo.vfi.dsepconv import dsepconv, kernel_sum
from magicvideo.vfi.edsc import EDSC, HEAD_WIDTHS, WIDTHS, Kernel
from magicvideo.vfi.flow import CoarseFlow, warp
from magicvideo.vfi.schedule import gap_times, num_output_frames


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


class Interpolator(ModelMixin, ConfigMixin):
    """EDSC's deformable separable kernels, carried by a coarse flow; made for small presets.

    The EDSC network sees both keyframes reduced by ``scale`` and moved to time t by the flow. Its kernels are
    enlarged to full resolution, its displacements (in full pixels) added to the flow, and applied to the full
    keyframes. The weight that a pixel's kernels leave over to 1 goes to the two moved keyframes, mixed by
    time: flat regions keep their colour exactly. Moving is bicubic, because bilinear reading blurs edges.

    Args:
        widths: channels of EDSC's levels.
        head_widths: channels inside EDSC's heads.
        kernel_size: points per side of a kernel; 5 as published.
        flow_widths: channels of the coarse flow at 1/8 and 1/4.
        scale: how much smaller the frames are that EDSC sees.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        widths: tuple[int, ...] = WIDTHS,
        head_widths: tuple[int, int] = HEAD_WIDTHS,
        kernel_size: int = 5,
        flow_widths: tuple[int, int] = (48, 24),
        scale: int = 2,
    ) -> None:
        super().__init__()
        self.flow = CoarseFlow(flow_widths)
        self.edsc = EDSC(
            widths=tuple(widths),
            head_widths=(head_widths[0], head_widths[1]),
            kernel_size=kernel_size,
            use_bias=False,
        )
        self.edsc.start_as_blend(0.2)

    @property
    def stride(self) -> int:
        """Sides are padded to multiples of this."""
        return max(8, int(self.config.scale) * self.edsc.stride)

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        """Return the frame ``(B, 3, H, W)`` at ``time`` ``(B,)``, not clamped."""
        height, width = first.shape[-2:]
        scale = int(self.config.scale)
        one, two = (_padded(frame, self.stride) for frame in (first, second))
        flow = _enlarge(self.flow(one, two, time), 4 // scale)
        kernels = self._kernels(F.avg_pool2d(one, scale), F.avg_pool2d(two, scale), flow, time)
        parts = [*kernels[0], *kernels[1], flow]
        large = _enlarge(torch.cat(parts, 1), scale)[..., :height, :width]
        *kernel_parts, flow = large.split([part.shape[1] for part in parts], 1)
        near, far = Kernel(*kernel_parts[:5]), Kernel(*kernel_parts[5:])
        moved = (warp(first, flow[:, :2], "bicubic"), warp(second, flow[:, 2:], "bicubic"))
        rest = 1 - sum(kernel_sum(kernel.vertical, kernel.horizontal, kernel.mask) for kernel in (near, far))
        share = time.to(first.dtype).view(-1, 1, 1, 1)
        return dsepconv(first, *near) + dsepconv(second, *far) + rest * torch.lerp(moved[0], moved[1], share)

    def _kernels(self, first: Tensor, second: Tensor, flow: Tensor, time: Tensor) -> tuple[Kernel, Kernel]:
        """Return kernels for reduced frames; their displacements, the flow included, are in full pixels."""
        scale = int(self.config.scale)
        one, two = warp(first, flow[:, :2] / scale), warp(second, flow[:, 2:] / scale)
        near, far = self.edsc.kernels(self.edsc.features(one, two), time)
        return _carried(near, flow[:, :2]), _carried(far, flow[:, 2:])

    @torch.no_grad()
    def predict(self, first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
        """Predict frames between pairs of keyframes, see `Predictor`."""
        between = [
            self(first, second, torch.full((len(first),), time, device=first.device)) for time in times
        ]
        return torch.stack(between, 1)

    def interpolate(self, frames: Tensor, factor: int = 3, *, chunk: int = 1) -> Tensor:
        """Interpolate a clip ``(T, 3, H, W)`` in [0, 1], see `interpolate`."""
        return interpolate(frames, factor, self.predict, chunk=chunk)


def edsc_predictor(model: EDSC) -> Predictor:
    """Return EDSC alone as a predictor, run as published: B, G, R channels, sides padded to its stride.

    The predictor raises ValueError for a time other than 1/2 where the network knows only the middle frame.
    """

    @torch.no_grad()
    def predict(first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
        if not model.multiple and set(times) != {0.5}:
            raise ValueError(f"this EDSC network knows only the middle frame (t = 0.5), got {times}")
        height, width = first.shape[-2:]
        one, two = (_padded(frame.flip(1), model.stride) for frame in (first, second))
        frames = [
            model(one, two, first.new_full((len(first),), time) if model.multiple else None) for time in times
        ]
        return torch.stack(frames, 1).flip(2)[..., :height, :width]

    return predict


def _padded(frame: Tensor, stride: int) -> Tensor:
    height, width = frame.shape[-2:]
    return F.pad(frame, (0, -width % stride, 0, -height % stride), mode="replicate")


def _carried(kernel: Kernel, flow: Tensor) -> Kernel:
    return kernel._replace(dy=kernel.dy + flow[:, :1], dx=kernel.dx + flow[:, 1:])


def _enlarge(x: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
