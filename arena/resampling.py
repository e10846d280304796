"""Draw clusters with replacement: the weights behind every bootstrap interval of ``arena``."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]
Table = npt.NDArray[np.int32] | sparse.csr_array

BLOCK_BYTES = 16 * 1024**2
VOTES_AT_ONCE = 1 << 20
DENSE_CELLS = 1 << 24
BINCOUNT_CELLS = 1 << 22
"""Cells up to which a count of all of them at once is faster than adding vote by vote."""


def encode(labels: Sequence[Hashable] | npt.NDArray[np.integer]) -> Codes:
    """Number distinct labels from 0, in the order of their first appearance."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.fromiter(map(numbers.__getitem__, labels), np.int64, len(labels))


def cluster_weights(generator: np.random.Generator, resamples: int, clusters: int) -> Floats:
    """Count how often each cluster is drawn when as many are drawn, with replacement, as there are.

    Returns:
        ``(resamples, clusters)`` counts; each row sums to ``clusters``.
    """
    counts = np.empty((resamples, clusters))
    block = max(1, BLOCK_BYTES // (8 * clusters))
    for start in range(0, resamples, block):
        height = min(block, resamples - start)
        drawn = generator.integers(0, clusters, (height, clusters))
        drawn += clusters * np.arange(height)[:, None]
        counts[start : start + height] = np.bincount(drawn.ravel(), minlength=height * clusters).reshape(
            height, clusters
        )
    return counts


def resampled_tables(
    cells: Integers,
    cell_count: int,
    *,
    evaluators: Integers | None = None,
    prompts: Integers | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Count votes by cell in studies redrawn from this one.

    With evaluators and prompts, both are redrawn and a vote weighs the product of the two counts (the
    pigeonhole bootstrap, Owen 2007); with one of them, its clusters are redrawn; with none, single votes.

    Args:
        cells: ``(N,)`` cell of each vote, from 0 to ``cell_count`` - 1.
        cell_count: Number of cells.
        evaluators: ``(N,)`` evaluator of each vote, numbered from 0.
        prompts: ``(N,)`` prompt of each vote, numbered from 0.
        resamples: Studies to draw.
        seed: Seed of the draws.

    Returns:
        ``(resamples, cell_count)`` weighted counts.
    """
    generator = np.random.default_rng(seed)
    if evaluators is None and prompts is None:
        counts = np.zeros(cell_count)
        for start in range(0, len(cells), VOTES_AT_ONCE):
            counts += np.bincount(cells[start : start + VOTES_AT_ONCE], minlength=cell_count)
        drawn = generator.multinomial(round(counts.sum()), counts / counts.sum(), size=resamples)
        return drawn.astype(np.float64)
    if prompts is None or evaluators is None:
        rows = prompts if evaluators is None else evaluators
        assert rows is not None
        counted = _count(rows, cells, cell_count, None)
        table = (counted if isinstance(counted, np.ndarray) else counted.toarray()).reshape(-1, cell_count)
        return np.asarray(cluster_weights(generator, resamples, len(table)) @ table)
    return _pigeonhole(generator, _count(evaluators, cells, cell_count, prompts), cell_count, resamples)


def _pigeonhole(generator: np.random.Generator, table: Table, cell_count: int, resamples: int) -> Floats:
    """Weigh a (evaluator x cell, prompt) table by draws of both, a block of evaluators at a time."""
    evaluators = table.shape[0] // cell_count
    by_row = cluster_weights(generator, resamples, evaluators)
    by_column = cluster_weights(generator, resamples, table.shape[1])
    block = max(1, BLOCK_BYTES // (8 * cell_count * max(resamples, table.shape[1])))
    found = np.zeros((cell_count, resamples))
    for start in range(0, evaluators, block):
        part = table[start * cell_count : (start + block) * cell_count].astype(np.float64)
        half = np.asarray(part @ by_column.T).reshape(-1, cell_count, resamples)
        half *= by_row.T[start : start + block, None]
        found += half.sum(axis=0)
    return np.ascontiguousarray(found.T)


def _count(rows: Integers, cells: Integers, cell_count: int, columns: Integers | None) -> Table:
    """Tabulate votes as (row x cell, column) without a copy of all of them; sparse when it would be large."""
    width = 1 if columns is None else int(columns.max()) + 1
    height = (int(rows.max()) + 1) * cell_count
    dense = height * width <= DENSE_CELLS
    totals = np.zeros(height * width if dense else 0, np.int32)
    keys, weights = [], []
    for start in range(0, len(cells), VOTES_AT_ONCE):
        part = slice(start, start + VOTES_AT_ONCE)
        key = rows[part].astype(np.int64)
        key *= cell_count
        key += cells[part]
        if columns is not None:
            key *= width
            key += columns[part]
        if dense and len(totals) <= BINCOUNT_CELLS:
            totals += np.bincount(key, minlength=len(totals)).astype(np.int32)
        elif dense:
            np.add.at(totals, key, 1)
        else:
            unique, count = np.unique(key, return_counts=True)
            keys.append(unique)
            weights.append(count)
    if dense:
        return totals.reshape(height, width)
    key = np.concatenate(keys)
    entries = (np.concatenate(weights).astype(np.float64), (key // width, key % width))
    return sparse.csr_array(entries, shape=(height, width))
