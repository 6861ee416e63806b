"""Which boxes of which tracklets become crops: good enough to learn from, at most so many a tracklet, spread in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.crops import clip_boxes
from data_tools.sources import ShardSettings
from data_tools.video import VideoInfo

REASONS = {
    "boxes_outside": "boxes outside the frame",
    "boxes_small": "boxes below --min-height",
    "boxes_truncated": "boxes within --edge-margin of the frame's edge",
    "boxes_overlapped": "boxes covered by another person's beyond --max-overlap",
    "tracklets": "tracklets without enough usable boxes",
    "tracklets_short": "tracklets shorter than --min-length-s",
}
"""Why boxes and tracklets fall away, in the order in which they are asked."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen detections in order of (tracklet, frame): rows (n,) of the input, clipped boxes (n, 4).

    dropped: how many fell away by each of REASONS.
    """

    rows: np.ndarray
    boxes: np.ndarray
    dropped: dict[str, int]


def select_crops(
    tracklet: np.ndarray,
    frame: np.ndarray,
    boxes: np.ndarray,
    *,
    video: VideoInfo,
    settings: ShardSettings,
    overlap: np.ndarray | None = None,
) -> Selection:
    """Chooses the crops of a recording.

    Args:
        tracklet: number of each detection's tracklet, (N,) int64, 0 or more.
        frame: (N,) int64.
        boxes: x1 y1 x2 y2 in pixels, (N, 4).
        overlap: (N,) of `largest_overlap`, needed for a max_overlap below 1.
    """
    clipped = clip_boxes(boxes, width=video.width, height=video.height)
    reason = _reasons(boxes, clipped, video=video, settings=settings, overlap=overlap)
    rows = np.flatnonzero(reason == "")
    rows = rows[np.lexsort((frame[rows], tracklet[rows]))]
    _, start, count = np.unique(tracklet[rows], return_index=True, return_counts=True)
    is_enough = count >= settings.min_frames
    length_s = (frame[rows[start + count - 1]] - frame[rows[start]]) / video.fps
    is_short = is_enough & (length_s < settings.min_length_s)
    kept = is_enough & ~is_short
    rows = rows[spread(start[kept], count[kept], settings.max_frames)]
    dropped = {name: int((reason == name).sum()) for name in REASONS if name.startswith("boxes")}
    dropped |= {
        "tracklets": len(np.unique(tracklet)) - int(is_enough.sum()),
        "tracklets_short": int(is_short.sum()),
    }
    return Selection(rows=rows, boxes=clipped[rows], dropped=dropped)


def _reasons(
    boxes: np.ndarray, clipped: np.ndarray, *, video: VideoInfo, settings: ShardSettings, overlap: np.ndarray | None
) -> np.ndarray:
    """The first of REASONS against each box, (N,) text; empty where there is none."""
    width, height = clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1]
    tests = {
        "boxes_outside": (width <= 0) | (height <= 0),
        "boxes_small": (height < settings.min_height) | (width < settings.min_height / 4),
    }
    if settings.edge_margin is not None:
        room = np.concatenate([boxes[:, :2], np.array([video.width, video.height]) - boxes[:, 2:]], axis=1)
        tests["boxes_truncated"] = (room < settings.edge_margin).any(axis=1)
    if settings.max_overlap < 1:
        assert overlap is not None
        tests["boxes_overlapped"] = overlap > settings.max_overlap
    return np.select(list(tests.values()), list(tests), default="")


def largest_overlap(frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How much of each box another one of its frame covers, the one that covers most: (N,) shares of its own area, 0 to 1."""
    order = np.argsort(frame, kind="stable")
    shares = np.zeros(len(frame))
    for rows in np.split(order, np.flatnonzero(np.diff(frame[order])) + 1):
        if len(rows) > 1:
            one = boxes[rows]
            low = np.maximum(one[:, None, :2], one[None, :, :2])
            size = np.clip(np.minimum(one[:, None, 2:], one[None, :, 2:]) - low, 0, None)
            shared = size.prod(axis=2)
            np.fill_diagonal(shared, 0)
            shares[rows] = shared.max(axis=1) / (one[:, 2:] - one[:, :2]).prod(axis=1)
    return shares


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
