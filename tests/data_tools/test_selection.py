"""Which boxes become crops."""

from __future__ import annotations

import numpy as np
import pytest

from data_tools.selection import REASONS, largest_overlap, select_crops, spread
from data_tools.sources import ShardSettings
from data_tools.video import VideoInfo
from taudl_dist.errors import UsageError

VIDEO = VideoInfo(path="cam.mp4", fps=10.0, num_frames=100, width=100, height=100, duration_s=10.0)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 16])
def test_spread_against_rounding_by_hand(most):
    count = np.array([1, 2, 3, 16, 17, 40, 5])
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    expected = []
    for begin, length in zip(start, count):
        taken = min(most, length)
        expected += [begin + int(i * (length - 1) / max(taken - 1, 1) + 0.5) for i in range(taken)]
    assert spread(start, count, most).tolist() == expected


def test_what_is_dropped_is_counted():
    tracklet = np.array([0, 0, 0, 1, 1, 2])
    frame = np.array([7, 5, 6, 1, 2, 3])
    boxes = np.array(
        [[0, 0, 10, 40], [5, 5, 20, 45], [200, 0, 210, 40], [0, 0, 10, 8], [0, 0, 2, 40], [90, 90, 130, 140]], float
    )
    settings = ShardSettings(min_height=10, min_frames=1)
    chosen = select_crops(tracklet, frame, boxes, video=VIDEO, settings=settings)
    assert chosen.rows.tolist() == [1, 0, 5]  # by tracklet, then frame; 2 outside, 3 too low, 4 too narrow
    assert chosen.boxes.tolist() == [[5, 5, 20, 45], [0, 0, 10, 40], [90, 90, 100, 100]]
    assert {name: count for name, count in chosen.dropped.items() if count} == {
        "boxes_outside": 1,
        "boxes_small": 2,
        "tracklets": 1,
    }
    longer = select_crops(tracklet, frame, boxes, video=VIDEO, settings=ShardSettings(min_height=10, min_frames=2))
    assert longer.rows.tolist() == [1, 0] and longer.dropped["tracklets"] == 2


def test_nothing_comes_of_nothing():
    empty = np.zeros(0, np.int64)
    chosen = select_crops(empty, empty, np.zeros((0, 4)), video=VIDEO, settings=ShardSettings())
    assert not len(chosen.rows) and chosen.dropped["tracklets"] == 0


def counts(chosen) -> dict[str, int]:
    return {name: count for name, count in chosen.dropped.items() if count}


def test_filters_are_off_unless_asked_for():
    boxes = np.array([[-5, 0, 20, 40], [0, 0, 20, 40]], float)
    chosen = select_crops(np.zeros(2, int), np.arange(2), boxes, video=VIDEO, settings=ShardSettings())
    assert len(chosen.rows) == 2 and counts(chosen) == {} and list(chosen.dropped) == list(REASONS)


EDGES = [
    # margin, boxes that stay
    (None, [0, 1, 2, 3, 4, 5]),
    (0, [1, 2, 3, 4, 5]),  # only those that reach beyond the frame
    (1, [2, 3, 5]),
    (10, [5]),
]


@pytest.mark.parametrize(("margin", "stay"), EDGES)
def test_boxes_at_the_edge(margin, stay):
    boxes = np.array(
        [[-1, 30, 20, 70], [0, 30, 20, 70], [1, 30, 20, 70], [70, 30, 99, 70], [30, 60, 50, 100], [30, 30, 50, 70]],
        float,
    )
    settings = ShardSettings(edge_margin=margin)
    chosen = select_crops(np.zeros(6, int), np.arange(6), boxes, video=VIDEO, settings=settings)
    assert chosen.rows.tolist() == stay and chosen.dropped["boxes_truncated"] == 6 - len(stay)


def test_short_tracklets():
    tracklet, frame = np.array([0, 0, 1, 1, 2]), np.array([0, 20, 0, 19, 5])
    boxes = np.tile([10.0, 10, 30, 50], (5, 1))
    chosen = select_crops(tracklet, frame, boxes, video=VIDEO, settings=ShardSettings(min_length_s=2.0, min_frames=2))
    assert chosen.rows.tolist() == [0, 1] and counts(chosen) == {"tracklets": 1, "tracklets_short": 1}


def test_overlap_against_every_pair():
    random = np.random.default_rng(4)
    frame = random.integers(0, 9, 60)
    low = random.uniform(0, 60, (60, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 40, (60, 2))], axis=1)
    expected = np.zeros(60)
    for i in range(60):
        for j in range(60):
            if i != j and frame[i] == frame[j]:
                wide, high = (min(boxes[i, a + 2], boxes[j, a + 2]) - max(boxes[i, a], boxes[j, a]) for a in (0, 1))
                area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
                expected[i] = max(expected[i], max(wide, 0) * max(high, 0) / area)
    assert largest_overlap(frame, boxes) == pytest.approx(expected) and (expected > 0.5).any()
    assert largest_overlap(np.zeros(0, int), np.zeros((0, 4))).tolist() == []
    chosen = select_crops(
        np.zeros(60, int), np.arange(60), boxes, video=VIDEO, overlap=expected,
        settings=ShardSettings(max_overlap=0.5, min_height=1, max_frames=99),
    )  # fmt: skip
    assert sorted(chosen.rows) == np.flatnonzero(expected <= 0.5).tolist()


@pytest.mark.parametrize(
    "setting",
    [{"min_length_s": -1.0}, {"edge_margin": -1}, {"max_overlap": 0.0}, {"max_overlap": 1.5}, {"window_s": 0.5}],
)
def test_settings_are_checked(setting):
    with pytest.raises(UsageError, match=next(iter(setting)).replace("_", "-")):
        ShardSettings(**setting)
