"""CMC, mAP and mINP of re-identification, exact and deterministic.

The rule of Market-1501: a gallery item of the query's own identity and camera is dropped, and so is junk (identity -1);
distractors (identity 0, which no query has) stay and never match; a query with nothing left to find is skipped and
counted. Equal distances rank by gallery position. Memory is bounded by a tile, never by queries x gallery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import Distances, FeatureDistances, MatrixDistances, Metric, as_array
from taudl_dist.evaluation.matches import Labels, Matches, both_sides, count_before, find_matches

AveragePrecision = Literal["step", "trapezoid"]


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


@dataclass(frozen=True, kw_only=True)
class QueryScores:
    """What each query found (Q,); zeros for a query without a match."""

    first: np.ndarray
    """Rank of the first match, from 1."""
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    """Number of matches / rank of the last one."""


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
    queries, gallery = both_sides(query_ids, gallery_ids, query_cameras, gallery_cameras)
    matrix = as_array(distances)
    check_shape(matrix.shape, queries, gallery)
    scores = score_queries(MatrixDistances(matrix), queries, gallery, average_precision=average_precision)
    return summary([scores], num_gallery=len(gallery), max_rank=max_rank)


def rank_metrics_from_features(  # noqa: PLR0917 - the order of rank_metrics
    query_features: Any,
    gallery_features: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cameras: Any,
    gallery_cameras: Any,
    *,
    metric: Metric = "euclidean",
    max_rank: int = 50,
    average_precision: AveragePrecision = "step",
    device: str = "cpu",
) -> RankMetrics:
    """`rank_metrics` of features (Q, D) and (G, D), arrays or tensors: ranks are those of the fp64 distances, products run on `device`.

    The gallery may be a memory-mapped array; it is read once for each 4,096 queries.
    """
    queries, gallery = both_sides(query_ids, gallery_ids, query_cameras, gallery_cameras)
    query_features, gallery_features = as_array(query_features), as_array(gallery_features)
    found = (len(query_features), len(gallery_features))
    if found != (len(queries), len(gallery)):
        raise UserError(
            f"features of {found[0]} queries and {found[1]} gallery items, expected {(len(queries), len(gallery))}"
        )
    distances = FeatureDistances(query_features, gallery_features, metric=metric, device=device)
    scores = score_queries(distances, queries, gallery, average_precision=average_precision)
    return summary([scores], num_gallery=len(gallery), max_rank=max_rank)


def score_queries(
    distances: Distances, queries: Labels, gallery: Labels, *, average_precision: AveragePrecision = "step"
) -> QueryScores:
    """What each query finds in a gallery that lies in one place."""
    matches = find_matches(distances, queries, gallery)
    before = count_before(distances, queries, gallery, matches)
    return score_matches(matches, before, num_queries=len(queries), average_precision=average_precision)


def score_matches(
    matches: Matches, before: np.ndarray, *, num_queries: int, average_precision: AveragePrecision = "step"
) -> QueryScores:
    """What each query found, given its matches and how many wrong answers stand before each (P,)."""
    if average_precision not in ("step", "trapezoid"):
        raise UserError(f"average_precision is {average_precision!r}, expected 'step' or 'trapezoid'")
    query = matches.query
    num_matches = np.bincount(query, minlength=num_queries)
    stop = np.cumsum(num_matches)
    start = stop - num_matches
    found = np.arange(len(query)) - start[query] + 1
    rank = before + found
    precision = found / rank
    if average_precision == "trapezoid":  # with the precision just above the match, which is 1 above the first rank
        above = np.divide(found - 1, rank - 1, out=np.ones(len(rank)), where=rank > 1)
        precision = (precision + above) / 2
    valid = num_matches > 0
    first, penalty = np.zeros(num_queries, np.int64), np.zeros(num_queries)
    first[valid] = rank[start[valid]]
    penalty[valid] = num_matches[valid] / rank[stop[valid] - 1]
    total = np.bincount(query, precision, minlength=num_queries)
    return QueryScores(first=first, average_precision=total / np.maximum(num_matches, 1), inverse_penalty=penalty)


def summary(parts: Iterable[QueryScores], *, num_gallery: int, max_rank: int = 50) -> RankMetrics:
    """The means over the valid queries of all parts.

    Raises:
        UserError: no query has a match.
    """
    if max_rank < 1:
        raise UserError(f"max_rank is {max_rank}, expected at least 1")
    rows = [(part.first, part.average_precision, part.inverse_penalty) for part in parts]
    first, precisions, penalties = map(np.concatenate, zip(*rows))
    num_valid = int(np.count_nonzero(first))
    if not num_valid:
        raise UserError(
            f"none of the {len(first)} queries has a match in the gallery of {num_gallery}: a match has the query's"
            " identity and another camera"
        )
    hits = np.bincount(np.minimum(first[first > 0], max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return RankMetrics(
        cmc=np.cumsum(hits) / num_valid,
        mAP=float(precisions.sum() / num_valid),
        mINP=float(penalties.sum() / num_valid),
        num_valid_queries=num_valid,
        num_skipped_queries=len(first) - num_valid,
    )


def check_shape(found: tuple[int, ...], queries: Labels, gallery: Labels) -> None:
    """A distance matrix has a row for each query and a column for each gallery item."""
    if found != (len(queries), len(gallery)):
        raise UserError(
            f"distances have shape {found}, expected {(len(queries), len(gallery))}: a row for each query id, a column for"
            " each gallery id"
        )
