"""The report without labels: its formulas against loops, its edge cases, and a model and a dataset as a user has them."""

import json
import math

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation import cross_camera
from taudl_dist.evaluation.features import embed
from taudl_dist.evaluation.label_free import (
    MEANINGS,
    label_free,
    label_free_of_features,
    shown,
    text,
    training_rows,
    within_camera,
)
from taudl_dist.model import load_model

ACROSS = {"nearer_than_own_camera", "reciprocity", "associated", "cross_camera_margin", "cross_camera_clearness"}


def world(counts, *, noise=0.2, dim=6, seed=0):
    """Halves (N, 2, D) of tracklets of the same people in every camera, one tracklet of each."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(max(counts), dim))
    cameras = np.repeat(np.arange(len(counts)), counts)
    who = np.concatenate([np.arange(count) for count in counts])
    halves = people[who][:, None] + noise * rng.normal(size=(len(who), 2, dim))
    return halves.astype(np.float32), np.full((len(who), 2), 3), cameras


def names(cameras):
    return [f"cam{camera}" for camera in np.unique(cameras)]


@pytest.mark.parametrize("tile", [1, 2, 1024])
@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_within_camera_is_nearest_first_half(tile, noise, monkeypatch):
    monkeypatch.setattr(cross_camera, "TILE_ROWS", tile)
    halves, _, cameras = world([6, 1, 5], noise=noise)
    has_second = np.arange(12) % 5 != 0
    expected = []
    for i in range(12):
        distances = {j: np.linalg.norm(halves[i, 1] - halves[j, 0]) for j in range(12) if cameras[j] == cameras[i]}
        told = has_second[i] and len(distances) > 1
        expected.append(float(min(distances, key=distances.get) == i) if told else np.nan)
    np.testing.assert_array_equal(within_camera(halves, has_second, cameras), expected)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_metrics_are_means_over_tracklets(noise):
    halves, sizes, cameras = world([6, 4, 5], noise=noise)
    sizes[2], sizes[9] = (5, 1), (1, 0)
    whole = (halves * sizes[:, :, None]).sum(1) / sizes.sum(1)[:, None]
    distances = np.linalg.norm(whole[:, None] - whole[None], axis=2)
    is_other = cameras[:, None] != cameras
    nearest = [min(np.flatnonzero(is_other[i]), key=lambda j, i=i: distances[i, j]) for i in range(15)]
    own = [min(distances[i, j] for j in range(15) if not is_other[i, j] and j != i) for i in range(15)]
    margins = []
    for i in range(15):
        rest = [distances[i, j] for j in np.flatnonzero(is_other[i]) if j != nearest[i]]
        margins.append(1 - distances[i, nearest[i]] / np.mean(rest))
    found = label_free_of_features(halves, sizes, cameras, names=names(cameras))
    assert found.metrics["reciprocity"] == pytest.approx(np.mean([nearest[nearest[i]] == i for i in range(15)]))
    expected = np.mean([distances[i, nearest[i]] < own[i] for i in range(15)])
    assert found.metrics["nearer_than_own_camera"] == pytest.approx(expected)
    assert found.metrics["cross_camera_margin"] == pytest.approx(np.mean(margins))
    right = within_camera(halves, sizes[:, 1] > 0, cameras)
    assert found.metrics["within_camera_accuracy"] == pytest.approx(np.nanmean(right))
    np.testing.assert_allclose(found.accuracy, [np.nanmean(right[cameras == camera]) for camera in range(3)])
    assert found.metrics["feature_norm"] == pytest.approx(np.linalg.norm(whole, axis=1).mean(), rel=1e-5)


def test_association_is_a_share_of_the_rows_camera():
    halves, sizes, cameras = world([6, 3], noise=1e-3)
    found = label_free_of_features(halves, sizes, cameras, names=["a", "b"])
    np.testing.assert_allclose(found.association, [[np.nan, 0.5], [1, np.nan]])
    assert found.metrics["associated"] == pytest.approx((3 + 3) / 9)
    assert found.metrics["within_camera_accuracy"] == 1


EDGES = {
    # counts of cameras: what is left out
    "one camera": ([5], ACROSS),
    "one tracklet a camera": (
        [1, 1, 1],
        {"within_camera_accuracy", "nearer_than_own_camera", "cross_camera_clearness"},
    ),
    "two tracklets": (
        [1, 1],
        {"within_camera_accuracy", "nearer_than_own_camera", "cross_camera_margin", "cross_camera_clearness"},
    ),
    "one tracklet": ([1], set(MEANINGS) - {"feature_norm"}),
}


@pytest.mark.parametrize(("counts", "undefined"), EDGES.values(), ids=EDGES)
def test_what_is_undefined_is_left_out(counts, undefined):
    halves, sizes, cameras = world(counts)
    found = label_free_of_features(halves, sizes, cameras, names=names(cameras))
    assert MEANINGS.keys() - found.metrics.keys() == undefined
    assert all(math.isfinite(value) for value in found.metrics.values())
    result = json.loads(json.dumps(found.as_result(), allow_nan=False))
    assert result["label_free"]["num_tracklets"] == sum(counts)
    assert "without labels" in text(result)


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_collapsed_features_look_collapsed(value, metric):
    _, sizes, cameras = world([4, 5, 6])
    halves = np.full((15, 2, 8), value, np.float32)
    metrics = label_free_of_features(halves, sizes, cameras, names=names(cameras), metric=metric).metrics
    zero = ("within_camera_accuracy", "nearer_than_own_camera", "cross_camera_margin", "cross_camera_clearness",
            "effective_rank", "feature_variance")  # fmt: skip
    assert {name: metrics[name] for name in zero} == dict.fromkeys(zero, 0)
    assert metrics["reciprocity"] <= 2 / 15  # ties go to one tracklet of each camera
    assert metrics["dead_dimensions"] == 1


def test_not_finite():
    halves, sizes, cameras = world([3, 3])
    halves[4, 0, 1] = np.nan
    with pytest.raises(UserError, match="tracklet 4 hold NaN"):
        label_free_of_features(halves, sizes, cameras, names=names(cameras))


def test_a_missing_half_does_not_count():
    halves, sizes, cameras = world([3, 4])
    sizes[2, 1] = 0
    found = label_free_of_features(halves, sizes, cameras, names=names(cameras))
    halves[2, 1] = 7
    again = label_free_of_features(halves, sizes, cameras, names=names(cameras))
    assert found.metrics == pytest.approx(again.metrics)


def test_a_model_and_a_dataset(dataset, run):
    model, rows = load_model(run), training_rows(dataset)
    assert "person_id" not in rows.column_names
    found = label_free(model, dataset, frames=4)
    assert found.cameras == ["cam1", "cam2"]
    assert found.counts.tolist() == [4, 4]
    halves = embed(model, dataset, rows, frames=4, parts=2).reshape(8, 2, -1)
    cameras = np.repeat([0, 1], 4)
    again = label_free_of_features(halves, np.full((8, 2), 2), cameras, names=found.cameras)
    assert found.metrics == again.metrics
    whole = embed(model, dataset, rows, frames=4)
    assert found.metrics["feature_norm"] == pytest.approx(np.linalg.norm(whole, axis=1).mean(), rel=1e-5)
    np.testing.assert_allclose(found.features, whole, rtol=1e-5, atol=1e-6)
    assert set(found.metrics) == set(MEANINGS)
    assert set(found.flat) == {f"label_free/{name}" for name in MEANINGS}


def test_a_sample_is_evenly_spaced_in_each_camera(dataset):
    rows = training_rows(dataset)
    assert training_rows(dataset, at_most=8).equals(rows)
    sample = training_rows(dataset, at_most=4)
    assert sample["camera"].to_pylist() == ["cam1"] * 2 + ["cam2"] * 2
    assert len(training_rows(dataset, at_most=1)) == 2  # each camera keeps one
    assert set(sample["key"].to_pylist()) <= set(rows["key"].to_pylist())


def test_shares_are_shown_in_percent():
    assert shown("reciprocity", 0.4567) == "45.7 %"
    assert shown("effective_rank", 12.345) == "12.3"
