"""The tracklets nearest to some queries, of a gallery that passes by in blocks: memory does not grow with the gallery.

What is found is a function of the features: where rounding could change the order, distances are taken in fp64; ties go by key.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from taudl_dist.evaluation.distances import FeatureDistances, Metric


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some tracklets: keys and cameras (n,) of strings, features (n, D) float32."""

    keys: np.ndarray
    cameras: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to look for: a tracklet, known by its key, or an image, known by its path and of no camera."""

    name: str
    camera: str | None
    feature: np.ndarray
    """(D,) float32."""


@dataclass(frozen=True, order=True)
class Hit:
    """A tracklet that was found; hits are ordered by distance, then by key."""

    distance: float
    key: str
    camera: str


def nearest(
    queries: Sequence[Query],
    blocks: Iterable[Block],
    *,
    top: int,
    metric: Metric = "euclidean",
    other_cameras: bool = False,
    device: str = "cpu",
) -> list[list[Hit]]:
    """The `top` nearest tracklets of each query, itself left out; fewer where there are no more.

    Args:
        blocks: the gallery; a tracklet that stands in it several times counts once.
        other_cameras: leave out the tracklets of a query's own camera.

    Raises:
        UserError: features that are not finite, or of another length than the queries'.
    """
    best: list[dict[str, Hit]] = [{} for _ in queries]
    for block in blocks:
        once = _each_once(block)
        may_be_found = _may_be_found(queries, once, other_cameras=other_cameras)
        for query, hit in _close(queries, once, may_be_found, top=top, metric=metric, device=device):
            best[query][hit.key] = hit
        best = [{hit.key: hit for hit in heapq.nsmallest(top, hits.values())} for hits in best]
    return [list(hits.values()) for hits in best]


def _each_once(block: Block) -> Block:
    first = np.sort(np.unique(block.keys, return_index=True)[1])
    if len(first) == len(block.keys):
        return block
    return Block(keys=block.keys[first], cameras=block.cameras[first], features=block.features[first])


def _may_be_found(queries: Sequence[Query], block: Block, *, other_cameras: bool) -> np.ndarray:
    """(Q, n) bool: not the query itself, nor of its camera if that is asked."""
    allowed = np.stack([block.keys != query.name for query in queries])
    if other_cameras:
        allowed &= np.stack([block.cameras != query.camera for query in queries])
    return allowed


def _close(
    queries: Sequence[Query], block: Block, may_be_found: np.ndarray, *, top: int, metric: Metric, device: str
) -> Iterator[tuple[int, Hit]]:
    """Number of a query and a hit: for each query at least its `top` nearest of the block, with exact distances."""
    import torch

    features = np.stack([query.feature for query in queries])
    distances = FeatureDistances(features, block.features, metric=metric, device=device)
    allowed = torch.from_numpy(may_be_found).to(device)
    for columns, tile, rounding in distances.tiles(slice(0, len(queries))):
        candidates = tile.masked_fill(~allowed[:, columns], torch.inf)
        # a distance may be off by `rounding` either way: what may be among the nearest is looked at again
        limit = candidates.kthvalue(min(top, candidates.shape[1]), dim=1, keepdim=True).values + 2 * rounding
        rows, positions = ((candidates <= limit) & allowed[:, columns]).cpu().numpy().nonzero()
        positions = positions + columns.start
        exact = distances.exact(rows, positions)
        values = np.sqrt(exact) if metric == "euclidean" else exact
        for row, position, value in zip(rows.tolist(), positions.tolist(), values.tolist()):
            yield row, Hit(value, str(block.keys[position]), str(block.cameras[position]))
