"""Endless drawing without repeats: visits of a fixed number of items, round after round over all of them.

Guarantees, each for every size and take: no item twice in a visit; every item exactly once in each round; any visit in O(take),
without its predecessors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taudl_dist.batches.permutation import fold, permute

Ints = NDArray[np.int64]


def draw(visit: Ints, size: Ints, take: Ints, key: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Items of one visit to each of A streams.

    Visit v takes slots v*take .. v*take+take-1; slot g stands at position g % size of round g // size. A round is an order of the
    items, and a visit may straddle two rounds. So that it shows nothing twice:

    - Round r follows the order P[key, w], w = r*d // take with d = min(size - take, take), or d = take if that is 0. From
      size >= 2*take on that is a new order for each round; below, some neighbouring rounds share an order, and a visit that
      straddles them is a window of a ring.
    - Where the order changes, `tail` items of the straddling visit belong to the old order. The first `take` positions of the new
      order are partitioned stably: what the tail showed goes last. d is such that the tail stood beyond the first `take`
      positions of its own order, where nothing moves: one order never depends on more than its predecessor.

    Args:
        visit, size, take, key: (A,), one stream each; 1 <= take <= size.

    Returns:
        items (A, max(take)) in 0..size-1 and the round of each; columns from a stream's `take` on are to be ignored.
    """
    column = np.arange(take.max())
    visit, size, take, key = visit[:, None], size[:, None], take[:, None], key[:, None]
    rounds, position = np.divmod(visit * take + column, size)
    fresh = np.minimum(size - take, take)
    fresh = np.where(fresh == 0, take, fresh)
    order = rounds * fresh // take
    items = permute(position, size, fold(key, order))
    tail = -(-order * take // fresh) * size % take
    moved = (tail > 0) & (position < take) & (column < take)
    if moved.any():
        row = np.nonzero(moved)[0]
        heads, which = np.unique(np.stack([row, order[moved], tail[moved]], axis=1), axis=0, return_inverse=True)
        row, order, tail = heads.T[:, :, None]
        row = row[:, 0]
        head = _head(size[row], take[row], key[row], order, tail)
        items[moved] = head[which.ravel(), position[moved]]
    return items, rounds


def _head(size: Ints, take: Ints, key: NDArray[np.uint64], order: Ints, tail: Ints) -> Ints:
    """The first `take` items of each order, (A, max(take)), those in the last `tail` of the order before it moved back."""
    column = np.arange(take.max())
    positions = np.stack([np.broadcast_to(column, (len(size), len(column))), size - tail + column]) % size
    head, shown = permute(positions, size, np.stack([fold(key, order), fold(key, order - 1)]))
    stream = np.arange(len(size))[:, None] * size.max()  # tells equal items of different streams apart
    late = np.isin(head + stream, (shown + stream)[column < tail])
    rank = np.argsort(late + 2 * (column >= take), axis=1, kind="stable")
    return np.take_along_axis(head, rank, axis=1)
