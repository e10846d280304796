"""Muon against torch's own, and against what its steps promise."""

import copy

import pytest
import torch
from torch import nn

from magicvideo.training.optimizers import Muon, build_optimizers, orthogonalise


def test_equals_torchs_muon_on_matrices() -> None:
    torch.manual_seed(0)
    ours = [
        nn.Parameter(torch.randn(6, 10)),
        nn.Parameter(torch.randn(12, 5)),
        nn.Parameter(torch.randn(6, 10)),
    ]
    theirs = copy.deepcopy(ours)
    one = Muon(ours, lr=0.02, weight_decay=0.1)
    two = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        one.step()
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=3e-3, rtol=0)  # both iterate in bfloat16


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_the_matrix_of_its_output_channels(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    convolution = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=memory))
    matrix = nn.Parameter(convolution.detach().permute(0, 2, 3, 1).reshape(8, 36).clone())
    convolution.grad = torch.randn(8, 4, 3, 3).to(memory_format=memory)
    matrix.grad = convolution.grad.permute(0, 2, 3, 1).reshape(8, 36).clone()
    Muon([convolution], lr=0.1).step()
    Muon([matrix], lr=0.1).step()
    torch.testing.assert_close(convolution.permute(0, 2, 3, 1).reshape(8, 36), matrix)


def test_singular_values_come_near_one() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    for turned in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(turned))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_only_matrices_between_features_get_muon() -> None:
    parameters = {
        "conv_in.weight": nn.Parameter(torch.randn(8, 4, 3, 3)),
        "block.weight": nn.Parameter(torch.randn(8, 8, 3, 3)),
        "block.bias": nn.Parameter(torch.randn(8)),
        "token_embedding.weight": nn.Parameter(torch.randn(20, 8)),
    }
    adamw, muon = build_optimizers(
        parameters, "muon", learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.0
    )
    assert [len(group["params"]) for group in muon.param_groups] == [1]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 3
    (alone,) = build_optimizers(parameters, "adamw", learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    assert isinstance(alone, torch.optim.AdamW)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices and convolutions"):
        Muon([nn.Parameter(torch.randn(3))], lr=0.1)
