"""One video to one track table: detections frame by frame, joined into tracks by the `trackers` library on the CPU."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.detect import Detector
from data_tools.tracks import TRACKS_SCHEMA
from data_tools.video import iter_frames, probe
from taudl_dist.errors import UsageError
from taudl_dist.progress import progress

_CONFIRM_FRAMES = 3  # detections in a row until a track gets an id

TRACKERS = {
    "cbiou": "CBIoUTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "sort": "SORTTracker",
}
"""Class in `trackers` by the name on the command line."""


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """How detections become tracks. The defaults were chosen by looking at the tracks of two real videos."""

    tracker: str = "cbiou"
    start_score: float = 0.7
    """Score of a detection that may begin a track; weaker ones only continue it."""
    min_seconds: float = 0.5
    """Shorter tracks are left out: false alarms and fragments."""
    every: int = 1
    """Look at each `every`-th frame only."""

    def __post_init__(self) -> None:
        if self.tracker not in TRACKERS:
            raise UsageError(f"--tracker {self.tracker}: expected one of {', '.join(TRACKERS)}")
        if not 0 < self.start_score < 1:
            raise UsageError(f"--start-score {self.start_score:g}: expected a score between 0 and 1")
        if not self.min_seconds >= 0:
            raise UsageError(f"--min-seconds {self.min_seconds:g}: expected 0 or more")
        if self.every < 1:
            raise UsageError(f"--every {self.every}: expected 1 (all frames) or more")


def track_video(path: str | Path, detector: Detector, settings: TrackSettings) -> pa.Table:
    """The tracks of a video as a table of `TRACKS_SCHEMA`, ordered by frame and track; the camera is the file's stem.

    Only detections that belong to a track are in it. `detector` maps a picture to boxes and scores.
    """
    info = probe(path)
    wanted = np.arange(0, info.num_frames, settings.every)
    tracker = _make_tracker(settings, info.fps / settings.every)
    frames = iter_frames(path, wanted=wanted)
    parts = [
        _step(tracker, frame, *detector(picture))
        for frame, picture in progress(frames, Path(path).name, unit="frames", total=len(wanted))
    ]
    frame, track, box, score = (np.concatenate(column) for column in zip(*parts))
    time_s = frame / info.fps
    kept = _is_long(track, time_s, settings.min_seconds)
    columns = [track, frame, time_s, *box.astype(np.float32).T, score.astype(np.float32)]
    names = [Path(path).stem] * int(kept.sum())
    table = pa.table([pa.array(names, pa.string()), *(pa.array(c[kept]) for c in columns)], schema=TRACKS_SCHEMA)
    return table.sort_by([("frame", "ascending"), ("track", "ascending")])


def _make_tracker(settings: TrackSettings, fps: float) -> Any:
    import trackers

    kind = getattr(trackers, TRACKERS[settings.tracker])
    wished = {
        "frame_rate": fps,
        "minimum_consecutive_frames": _CONFIRM_FRAMES,
        "track_activation_threshold": settings.start_score,
        "high_conf_det_threshold": settings.start_score if settings.tracker == "ocsort" else 0.5,
        "instant_first_frame_activation": False,
    }
    known = inspect.signature(kind).parameters  # the trackers differ in what they can be told
    return kind(**{name: value for name, value in wished.items() if name in known})


def _step(tracker: Any, frame: int, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Frame, track, box and score of the detections of one frame that belong to a track."""
    import supervision

    found = supervision.Detections(xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), dtype=int))
    found = tracker.update(found)
    is_tracked = found.tracker_id >= 0  # -1: no track, or one that is not confirmed
    track, box, score = found.tracker_id[is_tracked], found.xyxy[is_tracked], np.zeros(0)
    if len(track):
        score = found.confidence[is_tracked]
    return np.full(len(track), frame), track.astype(np.int64), box, score


def _is_long(track: np.ndarray, time_s: np.ndarray, min_seconds: float) -> np.ndarray:
    """(N,) whether the detection's track lasts at least `min_seconds`; detections are ordered by time."""
    ids, first, inverse = np.unique(track, return_index=True, return_inverse=True)
    last_s = np.zeros(len(ids))
    np.maximum.at(last_s, inverse, time_s)
    return (last_s - time_s[first] >= min_seconds)[inverse]
