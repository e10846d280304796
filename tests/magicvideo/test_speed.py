"""Attention as matrix products against torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from magicvideo.training.speed import MatmulAttention, compiled, matmul_attention


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 8, generator=generator) for length in (5, 7, 7))
    return query, key, value


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_equals_torchs_attention(kind: str) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in _inputs())
    mask = None if kind == "none" else torch.ones(5, 7, dtype=torch.bool).tril(2)
    if kind == "float" and mask is not None:
        mask = torch.zeros(5, 7).masked_fill(~mask, float("-inf"))
    theirs = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    with MatmulAttention():
        ours = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_causal_and_default_scale() -> None:
    query, key, value = (tensor[..., :5, :] for tensor in _inputs())
    torch.testing.assert_close(
        matmul_attention(query, key, value, is_causal=True),
        scaled_dot_product_attention(query, key, value, is_causal=True),
    )


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout"):
        matmul_attention(*_inputs(), dropout_p=0.1)


def test_without_a_compiler_the_module_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    module = torch.nn.Linear(2, 2)
    assert compiled(module) is module
