"""Nearest tracklets against sorting all distances, over block borders, ties, repetitions and cameras."""

from __future__ import annotations

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation.nearest import Block, Hit, Query, nearest

DIM = 6


def gallery(count, *, seed=0, grid=False):
    """Tracklets of three cameras; on a grid many distances are equal."""
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 2, (count, DIM)) if grid else rng.normal(size=(count, DIM))
    keys = np.array([f"k{number:03}" for number in rng.permutation(count)])
    return Block(
        keys=keys, cameras=np.array(["abc"[number % 3] for number in range(count)]), features=np.float32(features)
    )


def blocks(whole, size):
    for start in range(0, len(whole.keys), size):
        part = slice(start, start + size)
        yield Block(keys=whole.keys[part], cameras=whole.cameras[part], features=whole.features[part])


def queries(whole, count=3):
    """Tracklets of the gallery, and an image."""
    own = [
        Query(name=str(whole.keys[number]), camera=str(whole.cameras[number]), feature=whole.features[number])
        for number in range(count)
    ]
    return [*own, Query(name="face.jpg", camera=None, feature=whole.features[0] + np.float32(0.25))]


def by_sorting(query, whole, *, top, metric, other_cameras):
    """Every distance in fp64, one after another."""
    hits = set()
    for key, camera, feature in zip(whole.keys, whole.cameras, whole.features.astype(np.float64)):
        mine = query.feature.astype(np.float64)
        distance = np.sqrt(((mine - feature) ** 2).sum())
        if metric == "cosine":
            lengths = np.linalg.norm(mine) * np.linalg.norm(feature)
            distance = 1 - mine @ feature / max(lengths, np.finfo(float).tiny)
        if key != query.name and not (other_cameras and camera == query.camera):
            hits.add((round(distance, 12), str(key), str(camera)))
    return sorted(hits)[:top]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("other_cameras", [False, True])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(("count", "size", "top"), [(50, 50, 5), (50, 7, 5), (50, 1, 3), (5, 2, 99), (50, 50, 1)])
def test_as_by_sorting(metric, other_cameras, grid, count, size, top):  # noqa: PLR0917 - a table
    whole = gallery(count, grid=grid)
    wanted = queries(whole)
    found = nearest(wanted, blocks(whole, size), top=top, metric=metric, other_cameras=other_cameras)
    for query, hits in zip(wanted, found, strict=True):
        rounded = [(round(hit.distance, 12), hit.key, hit.camera) for hit in hits]
        expected = by_sorting(query, whole, top=top, metric=metric, other_cameras=other_cameras)
        assert [hit[0] for hit in rounded] == pytest.approx([hit[0] for hit in expected])
        if not (
            grid and metric == "cosine"
        ):  # there the last digit of equal distances depends on the order of summation
            assert rounded == expected


@pytest.mark.parametrize("size", [4, 2, 1])
def test_a_tracklet_that_is_query_and_gallery_counts_once(size):
    whole = Block(
        keys=np.array(["a", "a", "b", "c"]), cameras=np.array(["x"] * 4), features=np.float32([[1], [1], [2], [9]])
    )
    image = Query(name="i.jpg", camera=None, feature=np.float32([0]))
    assert nearest([image], blocks(whole, size), top=2) == [[Hit(1.0, "a", "x"), Hit(2.0, "b", "x")]]


def test_close_calls_are_decided_in_fp64():
    """Differences far below what a product of fp32 numbers of this size can tell apart."""
    offsets = np.arange(40, dtype=np.float64)[::-1] * 2.0**-12
    features = np.float32(np.stack([np.full(40, 1000.0), offsets, np.full(40, 3.0)], axis=1))
    whole = Block(keys=np.array([f"k{n:02}" for n in range(40)]), cameras=np.array(["x"] * 40), features=features)
    query = Query(name="q", camera=None, feature=np.float32([-1000.0, 0.0, 3.0]))
    hits = nearest([query], blocks(whole, 16), top=40)[0]
    assert [hit.key for hit in hits] == [f"k{n:02}" for n in range(39, -1, -1)]


def test_nothing_to_find():
    assert nearest([Query(name="q", camera="x", feature=np.zeros(2, np.float32))], [], top=3) == [[]]
    alone = Block(keys=np.array(["q"]), cameras=np.array(["x"]), features=np.zeros((1, 2), np.float32))
    assert nearest([Query(name="q", camera="x", feature=np.zeros(2, np.float32))], [alone], top=3) == [[]]


@pytest.mark.parametrize("feature", [[np.nan, 0.0], [1.0, 2.0, 3.0]])
def test_features_that_cannot_be_compared(feature):
    block = Block(keys=np.array(["a"]), cameras=np.array(["x"]), features=np.float32([feature]))
    with pytest.raises(UserError):
        nearest([Query(name="q", camera=None, feature=np.zeros(2, np.float32))], [block], top=1)
