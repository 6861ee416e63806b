"""Nearest neighbours between cameras without labels: N tracklets of T cameras, a tile at a time, never N x N distances.

Distances are fp64 around the features' mean; what is nearer than fp64 can tell apart is at distance zero, and ties go to the lowest
position, so the result is a function of the features and not of tile sizes. Time grows as N^2 D / 2, memory as N + T^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import Metric, runs

TILE_ROWS = 1024
"""Tracklets on each side of a tile: 8 MB of distances."""
_RESOLUTION = 1e-13
"""Smallest squared distance, over the largest squared length, that is not rounding."""


@dataclass(frozen=True, kw_only=True)
class CrossCamera:
    """What the tracklets find in other cameras, and how near their own camera comes; in the order of the features."""

    cameras: np.ndarray
    """(T,) the cameras present, ascending: rows and columns of `mutual`."""
    counts: np.ndarray
    """(T,) tracklets of each."""
    nearest: np.ndarray
    """(N,) position of the nearest tracklet of any other camera; -1 where there is none."""
    distance: np.ndarray
    """(N,) to it; infinite where there is none."""
    rest: np.ndarray
    """(N,) mean distance to all others of other cameras; NaN where there are none."""
    own: np.ndarray
    """(N,) distance to the nearest other tracklet of the same camera; infinite where there is none."""
    clearness: np.ndarray
    """(N,) mean over the other cameras of 1 - (nearest / second nearest distance); NaN where no other camera has two tracklets."""
    mutual: np.ndarray
    """(T, T) pairs of tracklets of two cameras that are each other's nearest among the tracklets of these two."""


class Points:
    """Features ready for distances.

    Args:
        features: (N, D).
        metric: `cosine` compares directions: rows are brought to length one first.

    Raises:
        UserError: not a matrix, or a row that is not finite.
    """

    def __init__(self, features: np.ndarray, *, metric: Metric = "euclidean") -> None:
        if features.ndim != 2:
            raise UserError(f"features have shape {features.shape}, expected a matrix: a row for each tracklet")
        check_finite(features)
        self._features, self._is_direction = features, metric == "cosine"
        parts = list(runs(len(features), TILE_ROWS))
        self._centre = np.zeros(features.shape[1])
        self._centre = sum((self.rows(part).sum(0) for part in parts), self._centre) / max(1, len(features))
        self._squares = np.concatenate([np.zeros(0), *(np.square(self.rows(part)).sum(1) for part in parts)])
        self._resolution = _RESOLUTION * self._squares.max(initial=0)

    def __len__(self) -> int:
        return len(self._features)

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """Centred rows (n, D) float64."""
        rows = self._features[which].astype(np.float64)
        if self._is_direction:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return rows - self._centre

    def distances(self, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """The matrix of distances between rows `left` (n,) and `right` (m,) in tiles: where they stand, and the distances."""
        for above in runs(len(left), TILE_ROWS):
            rows = self.rows(left[above])
            for aside in runs(len(right), TILE_ROWS):
                squared = rows @ (-2 * self.rows(right[aside]).T)
                squared += self._squares[left[above], None]
                squared += self._squares[right[aside]]
                squared[squared <= self._resolution] = 0
                yield above, aside, np.sqrt(squared, out=squared)


def cross_camera(features: np.ndarray, cameras: np.ndarray, *, metric: Metric = "euclidean") -> CrossCamera:
    """Neighbours of features (N, D) that stand for tracklets of cameras (N,), any integers.

    Raises:
        UserError: features that are not a matrix, or not finite.
    """
    points = Points(features, metric=metric)
    names, camera_of, counts = np.unique(cameras, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(camera_of, kind="stable"), np.cumsum(counts)[:-1])
    nearest, distance, own = np.full(len(points), -1), np.full(len(points), np.inf), np.full(len(points), np.inf)
    total, clear, num_clear = np.zeros(len(points)), np.zeros(len(points)), np.zeros(len(points), np.int64)
    mutual = np.zeros((len(names), len(names)), np.int64)
    for a, left in enumerate(rows):
        own[left] = _nearest_own(points, left)
        for b in range(a + 1, len(names)):
            right = rows[b]
            there, back = _between(points, left, right)
            mutual[a, b] = mutual[b, a] = np.count_nonzero(back.place[there.place] == np.arange(len(left)))
            for here, other, found in ((left, right, there), (right, left, back)):
                is_nearer = found.first < distance[here]
                distance[here] = np.where(is_nearer, found.first, distance[here])
                nearest[here] = np.where(is_nearer, other[found.place], nearest[here])
                total[here] += found.total
                if len(other) > 1:
                    clear[here] += found.clearness()
                    num_clear[here] += 1
    num_rest = len(points) - counts[camera_of] - 1
    has_rest = (nearest >= 0) & (num_rest > 0)
    rest, clearness = np.full(len(points), np.nan), np.full(len(points), np.nan)
    rest[has_rest] = (total - distance)[has_rest] / num_rest[has_rest]
    clearness[num_clear > 0] = clear[num_clear > 0] / num_clear[num_clear > 0]
    return CrossCamera(
        cameras=names,
        counts=counts,
        nearest=nearest,
        distance=distance,
        rest=rest,
        own=own,
        clearness=clearness,
        mutual=mutual,
    )


class _Found:
    """For each of n tracklets, what it finds among others as tiles of distances pass by, left to right."""

    def __init__(self, count: int) -> None:
        self.place = np.full(count, -1)
        self.first, self.second, self.total = np.full(count, np.inf), np.full(count, np.inf), np.zeros(count)

    def see(self, rows: slice, columns: slice, tile: np.ndarray) -> None:
        every = np.arange(len(tile))
        place = tile.argmin(1)
        value = tile[every, place]
        self.total[rows] += tile.sum(1)
        tile[every, place] = np.inf
        runner_up = tile.min(1)
        tile[every, place] = value
        first, second = self.first[rows], self.second[rows]
        self.place[rows] = np.where(value < first, place + columns.start, self.place[rows])
        self.second[rows] = np.minimum(np.maximum(first, value), np.minimum(second, runner_up))
        self.first[rows] = np.minimum(first, value)

    def clearness(self) -> np.ndarray:
        """1 - nearest / second nearest distance (n,): 0 where both are as near, zero included."""
        return np.where(self.second > 0, 1 - self.first / np.where(self.second > 0, self.second, 1), 0)


def _between(points: Points, left: np.ndarray, right: np.ndarray) -> tuple[_Found, _Found]:
    """What the tracklets of one camera find in another, and back."""
    there, back = _Found(len(left)), _Found(len(right))
    for above, aside, tile in points.distances(left, right):
        there.see(above, aside, tile)
        back.see(aside, above, tile.T)
    return there, back


def _nearest_own(points: Points, rows: np.ndarray) -> np.ndarray:
    """Distance (n,) to the nearest other tracklet among these."""
    nearest = np.full(len(rows), np.inf)
    for above, aside, tile in points.distances(rows, rows):
        same = np.arange(max(above.start, aside.start), min(above.stop, aside.stop))
        tile[same - above.start, same - aside.start] = np.inf
        nearest[above] = np.minimum(nearest[above], tile.min(1))
    return nearest


def check_finite(features: np.ndarray) -> None:
    """Refuses features with NaN or infinity, a block at a time.

    Raises:
        UserError: naming the first row.
    """
    for part in runs(len(features), TILE_ROWS):
        is_broken = ~np.isfinite(features[part]).all(axis=1)
        if is_broken.any():
            raise UserError(
                f"the features of tracklet {part.start + int(is_broken.argmax())} hold NaN or infinity, expected numbers: the"
                " model's weights are damaged, or its training diverged"
            )
