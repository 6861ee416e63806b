"""Neighbours between cameras against loops over all pairs, at any tile size."""

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation import cross_camera as module
from taudl_dist.evaluation.cross_camera import cross_camera


def slow(features, cameras, metric="euclidean"):
    """Everything from the matrix of all distances, one tracklet at a time."""
    features = np.asarray(features, np.float64)
    if metric == "cosine":
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    names = sorted(set(cameras.tolist()))
    found = {name: [] for name in ("nearest", "distance", "rest", "own", "clearness")}
    for i, camera in enumerate(cameras):
        others = [j for j in range(len(cameras)) if cameras[j] != camera]
        same = [j for j in range(len(cameras)) if cameras[j] == camera and j != i]
        # of equally near ones the lowest camera's, and of its tracklets the first
        ranked = sorted(others, key=lambda j: (distances[i, j], cameras[j], j))
        found["nearest"].append(ranked[0] if others else -1)
        found["distance"].append(distances[i, ranked[0]] if others else np.inf)
        found["rest"].append(np.mean([distances[i, j] for j in ranked[1:]]) if len(others) > 1 else np.nan)
        found["own"].append(min((distances[i, j] for j in same), default=np.inf))
        ratios = []
        for other in names:
            there = sorted(distances[i, j] for j in others if cameras[j] == other)
            if len(there) > 1:
                ratios.append(1 - there[0] / there[1] if there[1] else 0)
        found["clearness"].append(np.mean(ratios) if ratios else np.nan)
    mutual = np.zeros((len(names), len(names)), int)
    for a, left in enumerate(names):
        for b, right in enumerate(names):
            rows, columns = np.flatnonzero(cameras == left), np.flatnonzero(cameras == right)
            if a != b:
                there = {i: min(columns, key=lambda j: (distances[i, j], j)) for i in rows}
                back = {j: min(rows, key=lambda i: (distances[i, j], i)) for j in columns}
                mutual[a, b] = sum(back[there[i]] == i for i in rows)
    return found, mutual


def random_case(seed, counts, dim=5):
    rng = np.random.default_rng(seed)
    cameras = rng.permutation(np.repeat(np.arange(len(counts)) * 3 + 1, counts))
    return rng.normal(size=(len(cameras), dim)).astype(np.float32) + 10, cameras


CASES = {
    "three cameras": random_case(0, [7, 5, 9]),
    "one camera": random_case(1, [6]),
    "one tracklet a camera": random_case(2, [1, 1, 1]),
    "two tracklets": random_case(3, [1, 1]),
    "one tracklet": random_case(4, [1]),
    "a camera of one": random_case(5, [1, 8]),
    "all equal": (np.full((9, 3), 0.1, np.float32), np.repeat([0, 1, 2], 3)),
    "all zero": (np.zeros((6, 3), np.float32), np.repeat([0, 1], 3)),
    "ties": (np.array([[0.0], [1], [1], [2], [0], [2]], np.float32), np.array([0, 0, 1, 1, 2, 2])),
    "duplicates": (np.tile(random_case(6, [5])[0], (2, 1)), np.repeat([0, 1], 5)),
}


@pytest.mark.parametrize("tile", [1, 3, 1024])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_against_all_pairs(case, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE_ROWS", tile)
    features, cameras = case
    expected, mutual = slow(features, cameras)
    found = cross_camera(features, cameras)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(found.mutual, mutual)
    np.testing.assert_array_equal(found.cameras, np.unique(cameras))
    np.testing.assert_array_equal(found.counts, np.unique(cameras, return_counts=True)[1])


def test_cosine_compares_directions():
    features, cameras = random_case(7, [6, 6])
    features = features - 10
    lengths = np.random.default_rng(0).uniform(0.1, 9, (12, 1)).astype(np.float32)
    expected, mutual = slow(features, cameras, "cosine")
    found = cross_camera(features * lengths, cameras, metric="cosine")
    np.testing.assert_array_equal(found.nearest, expected["nearest"])
    np.testing.assert_allclose(found.distance, expected["distance"], rtol=1e-5)
    np.testing.assert_array_equal(found.mutual, mutual)


def test_far_from_the_origin_it_is_as_exact():
    features, cameras = random_case(8, [20, 20])
    near, far = (cross_camera((features - 10).astype(np.float64) + shift, cameras) for shift in (0, 1e6))
    np.testing.assert_array_equal(near.nearest, far.nearest)
    np.testing.assert_allclose(near.distance, far.distance, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(bad):
    features, cameras = random_case(9, [4, 4])
    features[5, 2] = bad
    with pytest.raises(UserError, match="tracklet 5"):
        cross_camera(features, cameras)


def test_features_that_are_no_matrix():
    with pytest.raises(UserError, match="matrix"):
        cross_camera(np.zeros(4), np.zeros(4, int))
