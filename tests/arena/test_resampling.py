"""Drawing clusters: the weights behind every bootstrap interval."""

import numpy as np
import pytest

from arena import resampling
from arena.resampling import cluster_weights, encode, resampled_tables


def test_labels_are_numbered_in_the_order_of_their_appearance() -> None:
    assert encode(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    assert encode(np.array([7, 3, 7])).tolist() == [0, 1, 0]
    assert encode([]).tolist() == []


def test_weights_are_multinomial_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK_BYTES", 8 * 9 * 1000)  # several blocks
    weights = cluster_weights(np.random.default_rng(0), 20_000, 9)
    assert weights.shape == (20_000, 9)
    assert (weights.sum(axis=1) == 9).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.04)
    covariance = np.cov(weights.T)
    assert np.diag(covariance) == pytest.approx(8 / 9, abs=0.05)
    assert covariance[~np.eye(9, dtype=bool)] == pytest.approx(-1 / 9, abs=0.05)


@pytest.mark.parametrize("limits", [(1 << 24, 1 << 22), (1 << 24, 0), (0, 0)])
def test_votes_are_counted_alike_however_large_the_table(monkeypatch: pytest.MonkeyPatch, limits) -> None:
    generator = np.random.default_rng(1)
    cells, people, prompts = (generator.integers(0, size, 3000) for size in (3, 7, 11))
    options = {"evaluators": people, "prompts": prompts, "resamples": 50, "seed": 2}
    expected = resampled_tables(cells, 3, **options)
    monkeypatch.setattr(resampling, "DENSE_CELLS", limits[0])
    monkeypatch.setattr(resampling, "BINCOUNT_CELLS", limits[1])
    monkeypatch.setattr(resampling, "VOTES_AT_ONCE", 700)
    found = resampled_tables(cells, 3, **options)
    assert found == pytest.approx(expected)
    rng = np.random.default_rng(2)
    by_person, by_prompt = cluster_weights(rng, 50, 7), cluster_weights(rng, 50, 11)
    weight = by_person[:, people] * by_prompt[:, prompts]
    assert found == pytest.approx(
        np.stack([weight[:, cells == cell].sum(axis=1) for cell in range(3)], axis=1)
    )


def test_single_votes_are_redrawn_with_their_shares() -> None:
    cells = np.repeat(np.arange(3), (60, 30, 10))
    found = resampled_tables(cells, 3, resamples=4000)
    assert (found.sum(axis=1) == 100).all()
    assert found.mean(axis=0) == pytest.approx([60, 30, 10], abs=0.5)
