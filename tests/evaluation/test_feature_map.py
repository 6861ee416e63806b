"""The map of features: the same bytes every time, and points that are near stay near."""

import io

import numpy as np
import pytest
from PIL import Image

from taudl_dist.evaluation.drawing import COLOURS
from taudl_dist.evaluation.feature_map import FEWEST, feature_map, plane, shown_people


def clusters(people=6, each=8, dim=12, noise=0.05):
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(1, people + 1), each)
    features = rng.normal(size=(people + 1, dim))[who] + noise * rng.normal(size=(len(who), dim))
    return features.astype(np.float32), who, [f"cam{number % 3}" for number in range(len(who))]


def test_neighbours_stay_neighbours_and_points_the_same():
    features, who, _ = clusters()
    points = plane(features)
    np.testing.assert_array_equal(points, plane(features))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (who[distances.argmin(1)] == who).all()


def test_cosine_sees_directions_alone():
    features, _, _ = clusters()
    lengths = np.repeat([1.0, 2, 4, 8], 12)[:, None].astype(np.float32)  # powers of two: nothing is rounded
    np.testing.assert_array_equal(plane(features * lengths, metric="cosine"), plane(features, metric="cosine"))


SMALL = {
    "fewest": np.random.default_rng(0).normal(size=(FEWEST, 3)).astype(np.float32),
    "all equal": np.ones((8, 4), np.float32),
    "one dimension": np.arange(9, dtype=np.float32)[:, None],
    "more dimensions than points": np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32),
}


@pytest.mark.parametrize("features", SMALL.values(), ids=SMALL)
def test_small_and_collapsed(features):
    points = plane(features)
    assert points.shape == (len(features), 2)
    assert np.isfinite(points).all()


def colours_in(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in np.unique(pixels, axis=0)}


def test_picture_by_person_and_by_camera():
    _, who, cameras = clusters()
    points = np.random.default_rng(2).normal(size=(len(who), 2))
    drawn = feature_map(points, cameras=cameras, people=who)
    assert drawn == feature_map(points, cameras=cameras, people=who)
    assert set(COLOURS[:6]) <= colours_in(drawn)
    alone = feature_map(points, cameras=cameras)
    assert set(COLOURS[:3]) <= colours_in(alone)
    assert not set(COLOURS[3:6]) & colours_in(alone)
    assert Image.open(io.BytesIO(drawn)).width > 1.8 * Image.open(io.BytesIO(alone)).width


def test_many_cameras_do_not_fill_the_picture_with_names():
    names = [f"camera {number}" for number in range(200)]
    few = feature_map(np.zeros((200, 2)), cameras=names[:24] + names[:1] * 176)
    many = feature_map(np.zeros((200, 2)), cameras=names)
    assert abs(Image.open(io.BytesIO(few)).height - Image.open(io.BytesIO(many)).height) < 10


PEOPLE = [
    # people of the tracklets, their cameras, count, who is shown
    ([1, 1, 2, 2], "abaa", 5, [1]),  # one camera saw person 2
    ([3, 3, 1, 1], "abab", 5, [1, 3]),
    ([0, 0, -1, -1], "abab", 5, []),  # distractors and junk are nobody
    ([1, 1, 2, 2, 3, 3, 4, 4], "abababab", 2, [1, 3]),  # evenly spaced
]


@pytest.mark.parametrize(("people", "cameras", "count", "expected"), PEOPLE)
def test_shown_people(people, cameras, count, expected):
    assert shown_people(np.array(people), list(cameras), count=count) == expected
