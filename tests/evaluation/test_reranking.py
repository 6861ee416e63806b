"""k-reciprocal re-ranking against a slow version with Python sets, written from the definitions."""

import numpy as np
import pytest

from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.distances import FeatureDistances
from taudl_dist.evaluation.reranking import Reranking, nearest, reranked_blocks


def slow_reranking(query, gallery, metric, k1, k2, weight):  # noqa: PLR0917
    """Every matrix in full, every set as a set."""
    items = np.concatenate([query, gallery]).astype(np.float64)
    if metric == "cosine":
        units = items / np.linalg.norm(items, axis=1, keepdims=True)
        distance = 1 - units @ units.T
    else:
        distance = np.square(items[:, None] - items).sum(2)
    distance /= distance.max(1, keepdims=True)
    order = [sorted(range(len(items)), key=lambda j, row=row: (row[j], j)) for row in distance]

    def reciprocal(p, k):
        return {j for j in order[p][: k + 1] if p in order[j][: k + 1]}

    weights = np.zeros_like(distance)
    for p in range(len(items)):
        own = reciprocal(p, k1)
        members = set(own)
        for q in own:
            half = reciprocal(q, round(k1 / 2))
            if len(half & own) > 2 / 3 * len(half):
                members |= half
        for j in members:
            weights[p, j] = np.exp(-distance[p, j])
        weights[p] /= weights[p].sum()
    weights = np.array([weights[order[p][:k2]].mean(0) for p in range(len(items))])
    num_query = len(query)
    result = np.empty((num_query, len(gallery)))
    for p in range(num_query):
        for g in range(len(gallery)):
            pair = weights[[p, num_query + g]]
            jaccard = 1 - pair.min(0).sum() / pair.max(0).sum()
            result[p, g] = (1 - weight) * jaccard + weight * distance[p, num_query + g]
    return result


def crowd(seed, *, num_query=12, num_gallery=50, twins=False):
    """Features around a few people, as re-ranking is made for."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(8, 10))
    features = people[rng.integers(0, 8, num_query + num_gallery)] + 0.5 * rng.normal(
        size=(num_query + num_gallery, 10)
    )
    if twins:
        features[rng.integers(0, len(features), 20)] = features[rng.integers(0, len(features), 20)]
    return np.split(features.astype(np.float32), [num_query])


CASES = [
    # remark, k1, k2, weight, gallery
    ("the paper's", 20, 6, 0.3, 50),
    ("small neighbourhoods", 5, 2, 0.3, 50),
    ("odd k1: half of it rounds to even", 7, 3, 0.5, 50),
    ("no query expansion", 6, 1, 0.3, 50),
    ("Jaccard distance alone", 6, 3, 0.0, 50),
    ("original distance alone", 6, 3, 1.0, 50),
    ("more expansion than neighbours", 3, 9, 0.3, 50),
    ("fewer items than neighbours", 20, 6, 0.3, 4),
]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("k1", "k2", "weight", "num_gallery"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_agrees_with_the_slow_version(metric, k1, k2, weight, num_gallery, monkeypatch):  # noqa: PLR0917
    monkeypatch.setattr("taudl_dist.evaluation.reranking.TILE_ELEMENTS", 300)
    monkeypatch.setattr("taudl_dist.evaluation.reranking._SETS_AT_A_TIME", 9)
    query, gallery = crowd(1, num_gallery=num_gallery)
    rows, blocks = zip(
        *reranked_blocks(query, gallery, metric=metric, reranking=Reranking(k1=k1, k2=k2, weight=weight))
    )
    assert [row.start for row in rows[1:]] == [row.stop for row in rows[:-1]]
    expected = slow_reranking(query, gallery, metric, k1, k2, weight)
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-5)


def test_equal_items_rank_by_position():
    query, gallery = crowd(2, twins=True)
    items = np.concatenate([query, gallery])
    found, _ = nearest(FeatureDistances(items, items), 7)
    exact = np.square(items[:, None].astype(np.float64) - items).sum(2)
    assert found.tolist() == [np.argsort(row, kind="stable")[:7].tolist() for row in exact]
    blocks = [block for _, block in reranked_blocks(query, gallery)]
    np.testing.assert_allclose(
        np.concatenate(blocks), slow_reranking(query, gallery, "euclidean", 20, 6, 0.3), atol=1e-5
    )


def test_items_that_are_all_equal_stay_numbers():
    (_, block), = reranked_blocks(np.ones((2, 3), np.float32), np.ones((40, 3), np.float32))  # fmt: skip
    assert np.isfinite(block).all()


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"weight": 1.5}])
def test_wrong_sizes_are_named(wrong):
    with pytest.raises(UsageError, match="expected k1 and k2"):
        Reranking(**wrong)


def test_features_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="rows of one length"):
        next(reranked_blocks(np.zeros((1, 2)), np.zeros((1, 3))))
