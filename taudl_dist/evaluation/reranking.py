"""k-reciprocal re-ranking (Zhong, Zheng, Cao and Li, CVPR 2017), without a matrix of everything against everything.

Two items are near if they are among each other's k nearest, and what their neighbourhoods share, their Jaccard distance, is
blended with the distance itself. Neighbourhoods are sparse, so memory grows with the number of items; time still grows with its
square. Where paper and released code differ this follows the code, as all published numbers do: squared distances divided by the
row's largest, an overlap of strictly more than two thirds, neighbourhoods of k1 items besides the item itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taudl_dist.errors import UsageError
from taudl_dist.evaluation.distances import TILE_ELEMENTS, FeatureDistances, Metric, check_features, runs

if TYPE_CHECKING:
    import scipy.sparse

_TWINS = 32
"""Candidates beyond the nearest that are compared in fp64, so that equal items rank by position."""
_SETS_AT_A_TIME = 512


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """Sizes of neighbourhoods and weight of the original distance; the defaults are the paper's."""

    k1: int = 20
    """Neighbours that must be mutual."""
    k2: int = 6
    """Neighbourhoods averaged, the item's own among them (local query expansion); 1 averages none."""
    weight: float = 0.3
    """Of the original distance, lambda in the paper; the rest is the Jaccard distance's."""

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.weight <= 1:
            raise UsageError(f"{self}: expected k1 and k2 of at least 1, and a weight of 0 to 1")


def reranked_blocks(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    metric: Metric = "euclidean",
    reranking: Reranking = Reranking(),
    device: str = "cpu",
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the re-ranked distances (Q, G) float32 of features (Q, D) and (G, D), a bounded number at a time."""
    check_features(query, gallery)
    everything = np.concatenate([query, gallery])
    distances = FeatureDistances(everything, everything, metric=metric, device=device)
    neighbours, largest = nearest(distances, max(reranking.k1 + 1, reranking.k2))
    sets = weighted_sets(distances, neighbours, largest, k1=reranking.k1)
    expanded = expand(sets, neighbours[:, : reranking.k2])
    by_member = expanded.tocsc()
    for rows in _rows(len(query), len(everything)):
        block = _squares(distances, rows)[:, len(query) :] * (reranking.weight / largest[rows, None])
        for row in range(rows.start, rows.stop):
            shared = _shared(expanded, by_member, row)[len(query) :]
            block[row - rows.start] += (1 - reranking.weight) * (1 - shared / (2 - shared))
        yield rows, block


def nearest(distances: FeatureDistances, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest items of each item (N, count), itself among them, ties by position; and its largest distance (N,)."""
    import torch

    num_items = len(distances.query)
    count = min(count, num_items)
    neighbours, largest = np.empty((num_items, count), np.int64), np.empty(num_items, np.float32)
    for rows in _rows(num_items, num_items):
        block = torch.from_numpy(_squares(distances, rows))
        largest[rows] = block.max(dim=1).values
        near = block.topk(min(count + _TWINS, num_items), largest=False, sorted=False).indices.numpy()
        own = np.repeat(np.arange(rows.start, rows.stop), near.shape[1])
        exact = distances.exact(own, near.ravel()).reshape(near.shape)
        neighbours[rows] = np.take_along_axis(near, np.lexsort((near, exact)), axis=1)[:, :count]
    return neighbours, np.maximum(largest, np.finfo(np.float32).tiny)


def weighted_sets(
    distances: FeatureDistances, neighbours: np.ndarray, largest: np.ndarray, *, k1: int
) -> scipy.sparse.csr_matrix:
    """Rows of weights exp(-distance) over the expanded k-reciprocal neighbours of each item, summing to one; sparse (N, N)."""
    import scipy.sparse

    mutual = mutual_neighbours(neighbours, k1)
    halves = mutual_neighbours(neighbours, int(np.around(k1 / 2)))
    parts = [expanded_sets(mutual, halves, rows) for rows in runs(len(neighbours), _SETS_AT_A_TIME)]
    row, member = (np.concatenate(column) for column in zip(*parts))
    weight = np.exp(-distances.exact(row, member) / largest[row])
    total = np.bincount(row, weight, minlength=len(neighbours))
    return scipy.sparse.csr_matrix((weight / total[row], (row, member)), shape=(len(neighbours),) * 2)


def mutual_neighbours(neighbours: np.ndarray, k: int) -> np.ndarray:
    """R(p, k): of the k nearest besides the item those that have it among theirs, (N, k + 1); -1 elsewhere."""
    near = neighbours[:, : k + 1]
    result = np.full(near.shape, -1)
    for rows in runs(len(near), _SETS_AT_A_TIME):
        own = np.arange(rows.start, rows.stop)[:, None, None]
        is_mutual = (near[near[rows]] == own).any(axis=2)
        result[rows] = np.where(is_mutual, near[rows], -1)
    return result


def expanded_sets(mutual: np.ndarray, halves: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """R*(p, k) of some items as pairs of item and member, ascending: R(p, k), and each R(q, k/2) of its members that mostly lies in it."""
    own = mutual[rows]
    candidates = np.where(own[:, :, None] >= 0, halves[own], -1)
    is_member = (candidates[..., None] == own[:, None, None, :]).any(axis=3) & (candidates >= 0)
    is_taken = is_member.sum(axis=2) > 2 / 3 * (candidates >= 0).sum(axis=2)
    taken = np.where(is_taken[..., None], candidates, -1).reshape(len(own), -1)
    members = np.sort(np.concatenate([own, taken], axis=1), axis=1)
    is_new = (np.diff(members, axis=1, prepend=-1) > 0) & (members >= 0)
    row, column = np.nonzero(is_new)
    return row + rows.start, members[row, column]


def expand(sets: scipy.sparse.csr_matrix, neighbours: np.ndarray) -> scipy.sparse.csr_matrix:
    """The mean of the weights of each item's nearest (N, k2)."""
    import scipy.sparse

    num_items, k2 = neighbours.shape
    row = np.repeat(np.arange(num_items), k2)
    mean = scipy.sparse.csr_matrix((np.full(len(row), 1 / k2), (row, neighbours.ravel())), shape=sets.shape)
    return (mean @ sets).tocsr()


def _shared(sets: scipy.sparse.csr_matrix, by_member: scipy.sparse.csc_matrix, row: int) -> np.ndarray:
    """What the weights of one item share with those of every item (N,): the sum over members of the smaller weight."""
    own = slice(sets.indptr[row], sets.indptr[row + 1])
    start, stop = by_member.indptr[sets.indices[own]], by_member.indptr[sets.indices[own] + 1]
    count = stop - start
    place = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
    smaller = np.minimum(by_member.data[place], np.repeat(sets.data[own], count))
    return np.bincount(by_member.indices[place], smaller, minlength=sets.shape[0])


def _squares(distances: FeatureDistances, rows: slice) -> np.ndarray:
    """Whole rows of squared Euclidean or cosine distances, which of unit vectors are the same up to a factor."""
    block = np.empty((rows.stop - rows.start, distances.shape[1]), np.float32)
    for columns, tile, _ in distances.tiles(rows):
        block[:, columns] = tile.clamp_min(0).cpu().numpy()
    return block


def _rows(num_rows: int, num_columns: int) -> Iterator[slice]:
    return runs(num_rows, TILE_ELEMENTS // max(1, num_columns))
