"""Tiles against obvious distances, and the promise that a ranking does not depend on how it was computed."""

import numpy as np
import pytest
import torch

from taudl_dist.errors import UserError
from taudl_dist.evaluation import distances
from taudl_dist.evaluation.distances import FeatureDistances, MatrixDistances
from taudl_dist.evaluation.metrics import rank_metrics, rank_metrics_from_features


def features(seed, *, count, dim=64, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (count, dim)).astype(np.float32)


def obvious(query, gallery, metric):
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        return np.square(query[:, None] - gallery).sum(2)
    return 1 - query @ gallery.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("shift", [0, 100])  # far from the origin the terms of a squared distance cancel
@pytest.mark.parametrize("dim", [1, 64, 512])
def test_tiles_are_off_by_less_than_they_say(metric, shift, dim, monkeypatch):
    monkeypatch.setattr(distances, "TILE_ELEMENTS", 500)
    query, gallery = features(0, count=20, dim=dim, shift=shift), features(1, count=90, dim=dim, shift=shift)
    found = FeatureDistances(query, gallery, metric=metric)
    expected = obvious(query, gallery, metric)
    for rows in (slice(0, 15), slice(15, 20)):
        seen = 0
        for columns, tile, slack in found.tiles(rows):
            assert (np.abs(tile.double().numpy() - expected[rows, columns]) <= slack.numpy()).all()
            seen += columns.stop - columns.start
        assert seen == 90
    pairs = np.indices((20, 90)).reshape(2, -1)
    np.testing.assert_allclose(found.exact(*pairs), expected.ravel(), rtol=1e-12, atol=1e-12)


def with_twins(seed):
    """Gallery items that equal others, of the same and of other people, and queries that equal gallery items."""
    rng = np.random.default_rng(seed)
    gallery = features(seed, count=300, dim=33, shift=2)
    gallery[rng.integers(0, 300, 120)] = gallery[rng.integers(0, 300, 120)]
    query = features(seed + 1, count=50, dim=33, shift=2)
    query[:20] = gallery[:20]
    return (
        query,
        gallery,
        rng.integers(1, 20, 50),
        rng.integers(-1, 20, 300),
        rng.integers(0, 3, 50),
        rng.integers(0, 3, 300),
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_ranks_do_not_depend_on_tiles_or_threads_and_twins_rank_by_position(metric, monkeypatch):
    for seed in range(2):
        case = with_twins(seed)
        query, gallery = (side.astype(np.float64) for side in case[:2])
        distance = FeatureDistances(query, gallery, metric=metric)
        pairs = np.indices((50, 300)).reshape(2, -1)
        expected = rank_metrics(distance.exact(*pairs).reshape(50, 300), *case[2:])
        for elements in (400, 3000, 1 << 22):
            for module in ("distances", "matches"):
                monkeypatch.setattr(f"taudl_dist.evaluation.{module}.TILE_ELEMENTS", elements)
            found = rank_metrics_from_features(*case, metric=metric)
            assert (found.mAP, found.mINP, found.cmc.tolist()) == (expected.mAP, expected.mINP, expected.cmc.tolist())


def test_products_of_reduced_precision_elsewhere_change_nothing():
    case = with_twins(5)
    expected = rank_metrics_from_features(*case)
    torch.set_float32_matmul_precision("medium")
    try:
        found = rank_metrics_from_features(*case)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found.mAP == expected.mAP


def test_tensors_are_as_good_as_arrays():
    query, gallery, *labels = with_twins(7)
    tensors = rank_metrics_from_features(torch.tensor(query), torch.tensor(gallery), *labels)
    assert tensors.mAP == rank_metrics_from_features(query, gallery, *labels).mAP


def test_a_mapped_gallery_is_as_good_as_one_in_memory(tmp_path):
    query, gallery, *labels = with_twins(6)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert (
        rank_metrics_from_features(query, mapped, *labels).mAP
        == rank_metrics_from_features(query, gallery, *labels).mAP
    )


BAD = [
    ("NaN query", np.array([[0.0], [np.nan]]), np.zeros((1, 1)), "features of query [01] hold NaN"),
    ("NaN gallery", np.zeros((1, 1)), np.array([[0.0], [np.nan]]), "features of gallery item 1 hold NaN"),
    ("infinite gallery", np.zeros((1, 1)), np.array([[np.inf]]), "gallery item 0"),
    ("too large to square", np.zeros((1, 1)), np.array([[1e30]]), "too large to square"),
    ("queries too large to square", np.array([[1e30], [-1e30]]), np.zeros((1, 1)), "query 0"),
    ("another length", np.zeros((1, 2)), np.zeros((1, 1)), "rows of one length"),
    ("not a matrix", np.zeros(2), np.zeros((1, 2)), "two matrices"),
]


@pytest.mark.parametrize(("query", "gallery", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_features_are_named(query, gallery, message):
    with pytest.raises(UserError, match=message):
        rank_metrics_from_features(
            query, gallery, [1] * len(query), [1] * len(gallery), [0] * len(query), [1] * len(gallery)
        )


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="manhattan"):
        FeatureDistances(np.zeros((1, 1)), np.zeros((1, 1)), metric="manhattan")


def test_integer_distances_rank_as_they_are():
    tiles = list(MatrixDistances(np.array([[2, 1], [3, 3]])).tiles(slice(0, 2)))
    assert torch.cat([tile for _, tile, _ in tiles], 1).tolist() == [[2, 1], [3, 3]]
