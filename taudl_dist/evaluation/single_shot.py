"""The single-gallery-shot CMC of classic CUHK03: one gallery image per person, drawn at random, for each query.

Others repeat the draw 10 or 100 times; here is its expectation, exactly: given the match drawn, the other people's images stand
before it independently of each other, so the rank is one more than a sum of independent yes-or-no draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import Distances, MatrixDistances, as_array
from taudl_dist.evaluation.matches import JUNK, Labels, both_sides
from taudl_dist.evaluation.metrics import check_shape


def single_shot_cmc(
    distances: Any,
    query_ids: Any,
    gallery_ids: Any,
    query_cameras: Any,
    gallery_cameras: Any,
    *,
    max_rank: int = 50,
) -> np.ndarray:
    """Expected CMC (max_rank,) of a distance matrix (Q, G) when each person has one gallery image, drawn evenly.

    What `rank_metrics` drops is dropped before the draw. Distractors (0) count as one person, as in other evaluators.

    Raises:
        UserError: shapes that do not fit, NaN among the distances, or no query with a match.
    """
    queries, gallery = both_sides(query_ids, gallery_ids, query_cameras, gallery_cameras)
    matrix = as_array(distances)
    check_shape(matrix.shape, queries, gallery)
    return expected_cmc(MatrixDistances(matrix), queries, gallery, max_rank=max_rank)


def expected_cmc(distances: Distances, queries: Labels, gallery: Labels, *, max_rank: int = 50) -> np.ndarray:
    """`single_shot_cmc` of distances that are looked up query by query."""
    if max_rank < 1:
        raise UserError(f"max_rank is {max_rank}, expected at least 1")
    curves = []
    for query in range(len(queries)):
        kept = np.flatnonzero(
            (gallery.ids != JUNK) & ~((gallery.ids == queries.ids[query]) & (gallery.cameras == queries.cameras[query]))
        )
        if queries.ids[query] != JUNK and (gallery.ids[kept] == queries.ids[query]).any():
            ranked = kept[np.argsort(distances.exact(np.full(len(kept), query), kept), kind="stable")]
            curves.append(_curve(gallery.ids[ranked], queries.ids[query], max_rank))
    if not curves:
        raise UserError(
            f"none of the {len(queries)} queries has a match in the gallery of {len(gallery)}: a match has the query's"
            " identity and another camera"
        )
    return np.mean(curves, axis=0)


def _curve(ids: np.ndarray, person: int, max_rank: int) -> np.ndarray:
    """Probability (max_rank,) that the match drawn stands at rank k or before, for identities in ranked order."""
    people, of_item, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    matches = np.flatnonzero(ids == person)
    before = np.stack([np.bincount(of_item[:place], minlength=len(people)) for place in matches]) / sizes
    before[:, people == person] = 0
    chance = np.zeros((len(matches), max_rank))  # that so many of the people seen so far stand before the match
    chance[:, 0] = 1
    for share in before.T[before.any(axis=0)]:
        chance[:, 1:] = chance[:, 1:] * (1 - share[:, None]) + chance[:, :-1] * share[:, None]
        chance[:, 0] *= 1 - share
    return np.minimum(chance.cumsum(axis=1), 1).mean(axis=0)
