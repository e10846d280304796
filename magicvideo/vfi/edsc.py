"""EDSC (Cheng and Chen, "Multiple Video Frame Interpolation via Enhanced Deformable Separable Convolution").

Module names, their order inside each ``Sequential`` and the arithmetic are those of the published network, so
that its state dicts load by name. What is free here are the widths: `EDSC()` is the published network,
narrower ones are for small presets. The published checkpoints expect B, G, R channels in [0, 1] and sides
divisible by 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicvideo.errors import MagicVideoError
from magicvideo.vfi.dsepconv import centre, dsepconv

WIDTHS = (32, 64, 128, 256, 512)
HEAD_WIDTHS = (64, 32)
DENSE_UP_TO = 128  # channels up to which a heterogeneous convolution runs as one dense convolution
HEADS = ("Vertical{}", "Horizontal{}", "Offset{}x", "Offset{}y", "Mask{}")


class Kernel(NamedTuple):
    """What `dsepconv` needs beside the frame; each ``(B, K or K*K, H, W)``."""

    vertical: Tensor
    horizontal: Tensor
    dy: Tensor
    dx: Tensor
    mask: Tensor


class HetConv2d(nn.Module):
    """Heterogeneous convolution: 3x3 within a channel group, 1x1 across groups (``Efficient_HetConv2d``).

    The three convolutions are linear in one input, so they equal one dense 3x3 convolution. It needs 2.6
    times the multiplications, but thin grouped convolutions waste more than that: narrow layers take this
    way.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.dense = max(in_channels, out_channels) <= DENSE_UP_TO
        self.conv3x3 = nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups)
        self.conv1x1_ = nn.Conv2d(in_channels, out_channels, 1, groups=groups)
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            return F.conv2d(x, *self.merged(), padding=1)
        return self.conv3x3(x) + self.conv1x1(x) - self.conv1x1_(x)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Return weight ``(out, in, 3, 3)`` and bias ``(out,)`` of the equal dense convolution."""
        grouped = self.conv3x3.weight - F.pad(self.conv1x1_.weight, (1, 1, 1, 1))
        groups = self.conv3x3.groups
        blocks = grouped.unflatten(0, (groups, -1))
        eye = torch.eye(groups, dtype=grouped.dtype, device=grouped.device)
        spread = torch.einsum("goihw,gf->gofihw", blocks, eye).flatten(2, 3).flatten(0, 1)
        weight = spread + F.pad(self.conv1x1.weight, (1, 1, 1, 1))
        grouped_bias, dense_bias, inner_bias = (
            torch.as_tensor(layer.bias) for layer in (self.conv3x3, self.conv1x1, self.conv1x1_)
        )
        return weight, grouped_bias + dense_bias - inner_bias


class EDSC(nn.Module):
    """Predict, for each of two frames, the kernels that resample it to a time between them.

    Args:
        widths: channels of the encoder's levels; level n works at 1 / 2**(n - 1) of the input.
        head_widths: channels of the two hidden layers of every head.
        kernel_size: K; a pixel is made from K * K points of each frame.
        groups: channel groups of the heterogeneous convolutions; divides every width.
        use_bias: whether a head adds a residual image.
        multiple: arbitrary time (the published EDSC_m) or the middle only (EDSC_s).
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = WIDTHS,
        head_widths: tuple[int, int] = HEAD_WIDTHS,
        kernel_size: int = 5,
        groups: int = 4,
        use_bias: bool = True,
        multiple: bool = True,
    ) -> None:
        super().__init__()
        self.levels, self.kernel_size, self.multiple = len(widths), kernel_size, multiple
        self.moduleConv1 = nn.Sequential(
            nn.Conv2d(6, widths[0], 3, padding=1),
            nn.ReLU(),
            HetConv2d(widths[0], widths[0], groups),
            nn.ReLU(),
            HetConv2d(widths[0], widths[0], groups),
            nn.ReLU(),
        )
        for level in range(2, self.levels + 1):
            setattr(self, f"moduleConv{level}", _basic(widths[level - 2], widths[level - 1], groups))
        for level in range(self.levels, 1, -1):
            below = widths[min(level, self.levels - 1)]
            setattr(self, f"moduleDeconv{level}", _basic(below, widths[level - 1], groups))
        for level in range(self.levels, 1, -1):
            setattr(self, f"moduleUpsample{level}", _upsample(widths[level - 1], groups))

        features, points = widths[1], kernel_size**2
        entry = features + int(multiple)
        for name in ("Vertical1", "Vertical2", "Horizontal1", "Horizontal2"):
            setattr(self, f"module{name}", _head(entry, head_widths, kernel_size))
        for name in ("Offset1x", "Offset1y", "Offset2x", "Offset2y"):
            setattr(self, f"module{name}", _head(entry, head_widths, points))
        for name in ("Mask1", "Mask2"):
            setattr(self, f"module{name}", _head(entry, head_widths, points).append(nn.Sigmoid()))
        self.moduleBias = _head(features, head_widths, 3) if use_bias else None

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return int(2**self.levels)

    def features(self, first: Tensor, second: Tensor) -> Tensor:
        """Encode two frames ``(B, 3, H, W)`` to ``(B, widths[1], H / 2, W / 2)``, for every time."""
        x = torch.cat([first, second], 1)
        skips = [self.moduleConv1(x)]
        for level in range(2, self.levels + 1):
            skips.append(self.get_submodule(f"moduleConv{level}")(F.avg_pool2d(skips[-1], 2)))
        x = F.avg_pool2d(skips[-1], 2)
        for level in range(self.levels, 1, -1):
            x = self.get_submodule(f"moduleDeconv{level}")(x)
            x = self.get_submodule(f"moduleUpsample{level}")(x) + skips[level - 1]
        return x

    def kernels(self, features: Tensor, time: Tensor | None = None) -> tuple[Kernel, Kernel]:
        """Return the kernels of the first and of the second frame, at twice the resolution of ``features``.

        Args:
            features: from `features`.
            time: ``(B,)`` in (0, 1), 0 the first frame; None for the network of the middle frame.
        """
        if self.multiple != (time is not None):
            raise ValueError("time must be given exactly when the network was built with multiple=True")
        near, far = features, features
        if time is not None:
            plane = time.to(features.dtype).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
            near, far = torch.cat([features, plane], 1), torch.cat([features, 1 - plane], 1)
        return self._kernel(near, 1), self._kernel(far, 2)

    def _kernel(self, x: Tensor, frame: int) -> Kernel:
        heads = [self.get_submodule("module" + name.format(frame)) for name in HEADS]
        # All heads read the same input: their first layers run as one convolution, their enlargement as one.
        weight = torch.cat([head.get_parameter("0.weight") for head in heads])
        bias = torch.cat([head.get_parameter("0.bias") for head in heads])
        hidden = F.relu(F.conv2d(x, weight, bias, padding=1)).chunk(len(heads), 1)
        small = [_run(head, slice(2, 6), part) for head, part in zip(heads, hidden, strict=True)]
        large = _run(heads[0], slice(6, 7), torch.cat(small, 1)).split([part.shape[1] for part in small], 1)
        return Kernel(*(_run(head, slice(7, None), part) for head, part in zip(heads, large, strict=True)))

    def forward(self, first: Tensor, second: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the frame ``(B, 3, H, W)`` at ``time`` ``(B,)``, as the published network does."""
        features = self.features(first, second)
        one, two = self.kernels(features, time)
        output = dsepconv(first, *one) + dsepconv(second, *two)
        return output if self.moduleBias is None else output + self.moduleBias(features)

    @torch.no_grad()
    def start_as_blend(self, weight: float = 1.0) -> None:
        """Let the output start as ``weight`` times the mean of both frames, unmoved."""
        shift = centre(self.kernel_size) - self.kernel_size // 2
        for name, module in self.named_children():
            if not name.startswith(
                ("moduleVertical", "moduleHorizontal", "moduleOffset", "moduleMask", "moduleBias")
            ):
                continue
            last = module[7]  # type: ignore[index]
            last.weight.mul_(0.1)
            last.bias.fill_(float(shift) if "Offset" in name else 0.0)
            if name.startswith(("moduleVertical", "moduleHorizontal")):
                last.bias[self.kernel_size // 2] = weight if "Vertical" in name else 1.0


def load_published(path: Path, *, multiple: bool = True) -> EDSC:
    """Read a published checkpoint (``EDSC_m.ckpt``, or ``EDSC_s_*.ckpt`` with ``multiple=False``).

    Raises:
        MagicVideoError: The file is no state dict, or a key is missing, unexpected or of another shape.
    """
    model = EDSC(multiple=multiple)
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("model_state", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise MagicVideoError(
            f"{path} holds no state dict of EDSC (expected a dict with the key model_state)"
        )
    expected = model.state_dict()
    wrong = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        raise MagicVideoError(
            f"{path} does not fit EDSC with multiple={multiple}; missing, unexpected or of another shape: "
            f"{', '.join(wrong)}"
        )
    model.load_state_dict(state)
    return model


def _run(head: nn.Module, layers: slice, x: Tensor) -> Tensor:
    for layer in list(head.children())[layers]:
        x = layer(x)
    return x


def _basic(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        HetConv2d(in_channels, out_channels, groups),
        nn.ReLU(),
        HetConv2d(out_channels, out_channels, groups),
        nn.ReLU(),
        HetConv2d(out_channels, out_channels, groups),
        nn.ReLU(),
    )


def _upsample(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        HetConv2d(channels, channels, groups),
        nn.ReLU(),
    )


def _head(in_channels: int, widths: tuple[int, int], out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, widths[0], 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(widths[1], out_channels, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )
