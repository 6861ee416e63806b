"""Which boxes of which tracklets become crops: inside the frame, large enough, at most so many a tracklet, spread in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.crops import clip_boxes
from data_tools.sources import ShardSettings
from data_tools.video import VideoInfo


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen detections in order of (tracklet, frame): rows (n,) of the input, clipped boxes (n, 4); and what fell away."""

    rows: np.ndarray
    boxes: np.ndarray
    dropped: dict[str, int]


def select_crops(
    tracklet: np.ndarray, frame: np.ndarray, boxes: np.ndarray, *, video: VideoInfo, settings: ShardSettings
) -> Selection:
    """Chooses the crops of a camera.

    Args:
        tracklet: number of each detection's tracklet, (N,) int64, 0 or more.
        frame: (N,) int64.
        boxes: x1 y1 x2 y2 in pixels, (N, 4).
    """
    clipped = clip_boxes(boxes, width=video.width, height=video.height)
    width, height = clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1]
    is_outside = (width <= 0) | (height <= 0)
    is_small = ~is_outside & ((height < settings.min_height) | (width < settings.min_height / 4))
    rows = np.flatnonzero(~is_outside & ~is_small)
    rows = rows[np.lexsort((frame[rows], tracklet[rows]))]
    _, start, count = np.unique(tracklet[rows], return_index=True, return_counts=True)
    is_long = count >= settings.min_frames
    rows = rows[spread(start[is_long], count[is_long], settings.max_frames)]
    dropped = {
        "boxes_outside": int(is_outside.sum()),
        "boxes_small": int(is_small.sum()),
        "tracklets": len(np.unique(tracklet)) - int(is_long.sum()),
    }
    return Selection(rows=rows, boxes=clipped[rows], dropped=dropped)


def spread(start: np.ndarray, count: np.ndarray, most: int) -> np.ndarray:
    """Positions of at most `most` of each run start .. start+count-1, evenly spaced, first and last among them.

    >>> spread(np.array([0, 10]), np.array([2, 7]), 3).tolist()
    [0, 1, 10, 13, 16]
    """
    taken = np.minimum(count, most)
    run = np.repeat(np.arange(len(count)), taken)
    step = np.arange(len(run)) - np.repeat(np.cumsum(taken) - taken, taken)
    gaps = np.maximum(taken[run] - 1, 1)
    return start[run] + (2 * step * (count[run] - 1) + gaps) // (2 * gaps)
