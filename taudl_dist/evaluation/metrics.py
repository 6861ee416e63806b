"""CMC, mAP and mINP of re-identification, exact and deterministic, one block of queries at a time.

The rule of Market-1501: a gallery item of the query's own identity and camera is dropped, and so is junk (identity -1);
distractors (identity 0, which no query has) stay and never match; a query with nothing left to find is skipped and
counted. Equal distances rank by gallery position. Memory is bounded by a block, never by queries x gallery.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taudl_dist.errors import UserError

JUNK = -1
"""Identity of gallery items that count neither as right nor as wrong."""

AveragePrecision = Literal["step", "trapezoid"]
Metric = Literal["euclidean", "cosine"]

_BLOCK_ELEMENTS = 1 << 22
"""Distances ranked at a time; about 30 bytes of working memory each."""


@dataclass(frozen=True, kw_only=True)
class RankMetrics:
    """What a ranking is worth; rates are fractions of the valid queries."""

    cmc: np.ndarray
    """(max_rank,) float64: share of queries whose first match stands at rank k or before; cmc[0] is rank 1."""
    mAP: float  # noqa: N815 - the name everyone uses
    """Mean average precision."""
    mINP: float  # noqa: N815
    """Mean inverse negative penalty: number of matches / rank of the last one."""
    num_valid_queries: int
    num_skipped_queries: int
    """Queries without a match in the gallery of other cameras."""

    def rank(self, k: int) -> float:
        """The CMC at rank k, also beyond the ranks kept: there the curve stays what it is at its end."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def rank_metrics(
    distances: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cameras: Any,
    gallery_cameras: Any,
    *,
    max_rank: int = 50,
    average_precision: AveragePrecision = "step",
) -> RankMetrics:
    """Metrics of a distance matrix (Q, G), array or tensor; ids and cameras are (Q,) and (G,) integers.

    `step` is the average precision of information retrieval, `trapezoid` the area of the MATLAB code of Market-1501
    and MARS, which is lower.

    Raises:
        UserError: shapes that do not fit, NaN among the distances, or no query with a match.
    """
    distances = _array(distances)
    targets = _Targets(query_ids, gallery_ids, query_cameras, gallery_cameras)
    if distances.shape != targets.shape:
        raise UserError(
            f"distances have shape {distances.shape}, expected {targets.shape}: a row for each query id, a column for"
            " each gallery id"
        )
    blocks = ((rows, distances[rows]) for rows in _row_blocks(*distances.shape))
    return _summary(blocks, targets, max_rank=max_rank, average_precision=average_precision)


def rank_metrics_from_features(  # noqa: PLR0917 - the order of rank_metrics
    query_features: np.ndarray,
    gallery_features: np.ndarray,
    query_ids: Any,
    gallery_ids: Any,
    query_cameras: Any,
    gallery_cameras: Any,
    *,
    metric: Metric = "euclidean",
    max_rank: int = 50,
    average_precision: AveragePrecision = "step",
) -> RankMetrics:
    """`rank_metrics` of features (Q, D) and (G, D), whose distances are computed block by block."""
    targets = _Targets(query_ids, gallery_ids, query_cameras, gallery_cameras)
    found = (len(query_features), len(gallery_features))
    if found != targets.shape:
        raise UserError(f"features of {found[0]} queries and {found[1]} gallery items, expected {targets.shape}")
    blocks = distance_blocks(query_features, gallery_features, metric=metric)
    return _summary(blocks, targets, max_rank=max_rank, average_precision=average_precision)


def distance_blocks(
    query_features: np.ndarray, gallery_features: np.ndarray, *, metric: Metric = "euclidean"
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the distance matrix (Q, G), a bounded number at a time: (slice of queries, their distances)."""
    if query_features.ndim != 2 or query_features.shape[1:] != gallery_features.shape[1:]:
        raise UserError(
            f"query features {query_features.shape} and gallery features {gallery_features.shape}:"
            " expected two matrices with rows of one length"
        )
    if metric == "cosine":
        query, gallery = _unit(query_features), _unit(gallery_features)
    else:  # distances do not change with the origin, but rounding in |q|^2 - 2qg + |g|^2 does: take the gallery's mean
        query, gallery = (x - gallery_features.mean(0) for x in (query_features, gallery_features))
    gallery_squares = np.einsum("gd,gd->g", gallery, gallery)
    for rows in _row_blocks(len(query), len(gallery)):
        block = query[rows] @ gallery.T
        if metric == "cosine":
            yield rows, 1 - block
        else:
            squares = np.einsum("qd,qd->q", query[rows], query[rows])[:, None] - 2 * block + gallery_squares
            yield rows, np.sqrt(np.maximum(squares, 0))


def ranking(
    distances: np.ndarray, query_id: int, query_camera: int, gallery_ids: np.ndarray, gallery_cameras: np.ndarray
) -> np.ndarray:
    """Gallery positions of one query (G,) in ranked order, without what the protocol drops."""
    order = np.argsort(distances, kind="stable")
    dropped = (gallery_ids == JUNK) | ((gallery_ids == query_id) & (gallery_cameras == query_camera))
    return order[~dropped[order]]


class _Targets:
    """Who is who: identities and cameras of queries and gallery, checked once."""

    def __init__(self, query_ids: Any, gallery_ids: Any, query_cameras: Any, gallery_cameras: Any) -> None:
        self.query_ids, self.query_cameras = _array(query_ids), _array(query_cameras)
        self.gallery_ids, self.gallery_cameras = _array(gallery_ids), _array(gallery_cameras)
        for side, ids, cameras in (
            ("query", self.query_ids, self.query_cameras),
            ("gallery", self.gallery_ids, self.gallery_cameras),
        ):
            if ids.ndim != 1 or ids.shape != cameras.shape:
                raise UserError(
                    f"{side} ids have shape {ids.shape} and {side} cameras {cameras.shape}: expected two lists of one length"
                )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query_ids), len(self.gallery_ids)

    def masks(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Gallery items that stay, and those of them that match: two bool (q, G)."""
        same_id = self.query_ids[rows, None] == self.gallery_ids
        kept = ~(same_id & (self.query_cameras[rows, None] == self.gallery_cameras)) & (self.gallery_ids != JUNK)
        return kept, same_id & kept


def _summary(
    blocks: Iterable[tuple[slice, np.ndarray]], targets: _Targets, *, max_rank: int, average_precision: str
) -> RankMetrics:
    if max_rank < 1:
        raise UserError(f"max_rank is {max_rank}, expected at least 1")
    if average_precision not in ("step", "trapezoid"):
        raise UserError(f"average_precision is {average_precision!r}, expected 'step' or 'trapezoid'")
    parts = [_score(block, *targets.masks(rows), average_precision) for rows, block in blocks]
    first, precisions, penalties = map(np.concatenate, zip(*parts)) if parts else (np.zeros(0),) * 3
    num_valid = int(np.count_nonzero(first))
    if not num_valid:
        raise UserError(
            f"none of the {targets.shape[0]} queries has a match in the gallery of {targets.shape[1]}: a match has the"
            " query's identity and another camera"
        )
    hits = np.bincount(np.minimum(first[first > 0], max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return RankMetrics(
        cmc=np.cumsum(hits) / num_valid,
        mAP=float(precisions.sum() / num_valid),
        mINP=float(penalties.sum() / num_valid),
        num_valid_queries=num_valid,
        num_skipped_queries=len(first) - num_valid,
    )


def _score(
    distances: np.ndarray, kept: np.ndarray, matches: np.ndarray, average_precision: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank of the first match (0: no match), average precision, and inverse negative penalty of each query (q,)."""
    if np.isnan(distances).any():
        raise UserError(
            f"{np.isnan(distances).sum()} distances are NaN, expected numbers: look for NaN in the features"
        )
    order = np.argsort(distances, axis=1, kind="stable")
    rank_of = np.cumsum(np.take_along_axis(kept, order, axis=1), axis=1, dtype=np.int32)
    # From here on one entry a match, queries ascending and ranks ascending within a query.
    query, position = np.nonzero(np.take_along_axis(matches, order, axis=1))
    rank = rank_of[query, position].astype(np.int64)
    num_matches = np.bincount(query, minlength=len(distances))
    stop = np.cumsum(num_matches)
    start = stop - num_matches
    found = np.arange(len(query)) - start[query] + 1
    precision = found / rank
    if average_precision == "trapezoid":  # with the precision just above the match, which is 1 above the first rank
        above = np.divide(found - 1, rank - 1, out=np.ones(len(rank)), where=rank > 1)
        precision = (precision + above) / 2
    valid = num_matches > 0
    first, penalties = np.zeros(len(distances), np.int64), np.zeros(len(distances))
    first[valid] = rank[start[valid]]
    penalties[valid] = num_matches[valid] / rank[stop[valid] - 1]
    return first, np.bincount(query, precision, minlength=len(distances)) / np.maximum(num_matches, 1), penalties


def _row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // max(1, num_columns))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays zero and is at distance 1 from everything."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _array(values: Any) -> np.ndarray:
    """A tensor of any device or an array-like as an array."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()  # numpy has no bfloat16
