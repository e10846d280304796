"""Optimisers: AdamW, and Muon for the matrices of a network that is trained from nothing."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch

# Layers at a network's edges: embeddings, and convolutions from and to a few channels, are no maps between features.
EDGES = ("embedding", "conv_in", "conv_out", "position")
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised: every direction of a weight matrix learns at the same rate.

    After Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with the step scaled to the
    size of an AdamW step (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2), so that a learning
    rate for AdamW serves. A convolution ``(O, I, h, w)`` is the matrix ``(O, h w I)``.
    """

    def __init__(
        self, params: Iterable[torch.Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        """Take matrices and convolutions; any other shape is refused.

        Raises:
            ValueError: a parameter has neither two dimensions nor four.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for value in group["params"]:
                if value.dim() not in (2, 4):
                    raise ValueError(f"Muon takes matrices and convolutions, not a shape of {value.shape}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """Update every parameter that has a gradient, matrices of one shape together; ``closure`` is not used."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for value in group["params"]:
                if value.grad is not None:
                    direction = self._direction(value, value.grad, group["momentum"])
                    alike.setdefault(value.shape, []).append((value, direction))
            for pairs in alike.values():
                steps = orthogonalise(torch.stack([direction for _, direction in pairs]))
                steps *= 0.2 * math.sqrt(max(steps.shape[1:]))
                for (value, _), step in zip(pairs, steps, strict=True):
                    value.mul_(1 - group["lr"] * group["weight_decay"])
                    value.add_(_like(step, value), alpha=-group["lr"])

    def _direction(self, value: torch.Tensor, gradient: torch.Tensor, momentum: float) -> torch.Tensor:
        """Add the gradient to the momentum; return the matrix of Nesterov's look ahead."""
        state = self.state[value]
        if not state:
            state["momentum"] = torch.zeros_like(value)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return _matrix(torch.lerp(gradient, state["momentum"], momentum))


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring the singular values of ``(N, A, B)`` near one (0.7 to 1.2) by Newton-Schulz steps in bfloat16."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).float()


def build_optimizers(
    parameters: Mapping[str, torch.nn.Parameter],
    kind: str,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters, or (``kind`` "muon") Muon for matrices and AdamW for what else there is."""
    matrices = {
        name: value
        for name, value in parameters.items()
        if kind == "muon" and value.dim() in (2, 4) and not any(edge in name for edge in EDGES)
    }
    others = [value for name, value in parameters.items() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    if matrices:
        optimizers.append(Muon(matrices.values(), lr=learning_rate, weight_decay=weight_decay))
    return optimizers


def _matrix(value: torch.Tensor) -> torch.Tensor:
    return value if value.dim() == 2 else value.permute(0, 2, 3, 1).flatten(1)


def _like(matrix: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if value.dim() == 2:
        return matrix
    rows, channels, height, width = value.shape
    return matrix.view(rows, height, width, channels).permute(0, 3, 1, 2)
