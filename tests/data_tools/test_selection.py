"""Which boxes become crops."""

from __future__ import annotations

import numpy as np
import pytest

from data_tools.selection import select_crops, spread
from data_tools.sources import ShardSettings
from data_tools.video import VideoInfo

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
