"""Sparse Space-Time Tracklet sampling (Sect. 3.1): which tracks become labelled tracklets, without any annotation.

At instants S_i further apart than people need to cross the view, the tracks alive are taken if they stand far enough from
each other; each gets a label of its own. The cost is one sort of the detections and one step per instant with candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from taudl_dist.errors import UserError
from taudl_dist.progress import log

TRACKLETS_SCHEMA = pa.schema(
    [("camera", pa.string()), ("track", pa.int64()), ("label", pa.int64()), ("instant_s", pa.float64())]
)

_TRANSIT_QUANTILE = 0.95
_MARGIN = 1.25
_SAME_SPAN_S = 1e-6  # spans computed from frame / fps differ by rounding; equal lengths must still tie
_MOST_INSTANTS = 10**7


@dataclass(frozen=True, kw_only=True)
class _Tracks:
    """The tracks of all cameras, ordered by (camera, track); detections of track k are rows start[k] to start[k+1]."""

    cameras: list[str]
    camera: np.ndarray
    track: np.ndarray
    start: np.ndarray
    time_s: np.ndarray
    centre: np.ndarray

    @property
    def first_s(self) -> np.ndarray:
        return self.time_s[self.start[:-1]]

    @property
    def last_s(self) -> np.ndarray:
        return self.time_s[self.start[1:] - 1]


@dataclass(frozen=True, kw_only=True)
class _Instants:
    """S_i = S_0 + i * P."""

    first_s: float
    interval_s: float

    def at(self, number):
        return self.first_s + number * self.interval_s


def sample_tracklets(
    tracks: pa.Table, *, interval_s: float | str, min_distance: float = 0.0, first_instant_s: float = 0.0
) -> pa.Table:
    """Samples and labels tracklets camera by camera.

    At S_i = first_instant_s + i * interval_s (i = 0, 1, ...) the candidates are the tracks that were not sampled before
    and have a detection at or before and one at or after S_i. They are visited from the longest (last minus first
    detection in seconds; ties by track id) and taken unless the centre of a track taken at S_i is nearer than
    `min_distance`. Boxes at S_i are interpolated linearly between the neighbouring detections.

    Args:
        tracks: Table with the columns of `TRACKS_SCHEMA`, any number of cameras, rows in any order; track -1 is left out.
        interval_s: P in seconds, or "auto" for `estimate_interval`. It should exceed the common transit time Q.
        min_distance: Smallest distance in pixels between two box centres sampled at the same instant.
        first_instant_s: S_0 in seconds.

    Returns:
        Table camera, track, label, instant_s, ordered by camera and label. Labels are 0..M_t-1 within a camera, in
        order of (instant, track).
    """
    found = _by_track(tracks)
    instants = _Instants(
        first_s=_checked_first_instant(first_instant_s),
        interval_s=_estimate(found) if interval_s == "auto" else _checked_interval(interval_s),
    )
    if not (math.isfinite(min_distance) and min_distance >= 0):
        raise UserError(f"min_distance is {min_distance!r}; expected pixels, 0 or more")
    low, high = _instant_range(found, instants)
    if not min_distance:  # nothing keeps a track from being sampled at its first instant
        chosen = np.flatnonzero(low <= high)
        return _labelled(found, chosen, instants.at(low[chosen]))
    samples: list[tuple[float, np.ndarray]] = []
    for camera in range(len(found.cameras)):
        rows = np.flatnonzero((found.camera == camera) & (low <= high))
        samples += _sample_camera(found, rows, instants, low=low, high=high, min_distance=min_distance)
    if not samples:
        return TRACKLETS_SCHEMA.empty_table()
    instant_s = np.repeat([instant_s for instant_s, _ in samples], [len(taken) for _, taken in samples])
    return _labelled(found, np.concatenate([taken for _, taken in samples]), instant_s)


def estimate_interval(tracks: pa.Table) -> float:
    """An interval P in seconds above the transit time Q, which is estimated from the durations of all tracks.

    Q is the 0.95 quantile of the durations over all cameras, so that a few people who stay (or a false track on a
    poster) do not stretch it; P is a quarter longer, to the next tenth of a second. Both are logged. Where
    fragmentation cuts most tracks short, Q comes out too small: then give P yourself.
    """
    return _estimate(_by_track(tracks))


def _estimate(found: _Tracks) -> float:
    durations = found.last_s - found.first_s
    transit_s = float(np.quantile(durations, _TRANSIT_QUANTILE)) if len(durations) else 0.0
    if not transit_s > 0:
        raise UserError(
            f"interval_s auto: the 95 % quantile of the durations of {len(durations)} tracks is {transit_s:g} s, so no "
            "transit time can be estimated; give interval_s in seconds"
        )
    interval_s = math.ceil(round(transit_s * _MARGIN * 10, 6)) / 10
    log(
        f"interval_s auto: 95 % of {len(durations)} tracks last at most "
        f"Q = {transit_s:.1f} s; P = {interval_s:.1f} s is {_MARGIN:g} Q"
    )
    return interval_s


def _checked_interval(interval_s: float | str) -> float:
    if isinstance(interval_s, str) or not (math.isfinite(interval_s) and interval_s > 0):
        raise UserError(
            f"interval_s is {interval_s!r}; expected seconds above 0, more than people need to cross, or 'auto'"
        )
    return interval_s


def _checked_first_instant(first_instant_s: float) -> float:
    if not math.isfinite(first_instant_s):
        raise UserError(f"first_instant_s is {first_instant_s!r}; expected a finite number of seconds")
    return first_instant_s


def _by_track(tracks: pa.Table) -> _Tracks:
    missing = [
        name for name in ("camera", "track", "time_s", "x1", "y1", "x2", "y2") if name not in tracks.column_names
    ]
    if missing:
        raise UserError(f"the table of tracks has no column {missing[0]}; found {', '.join(tracks.column_names)}")
    track = tracks["track"].to_numpy()
    names = tracks["camera"].cast(pa.string()).combine_chunks().dictionary_encode()
    cameras = sorted(names.dictionary.to_pylist())
    code = np.searchsorted(cameras, names.dictionary.to_numpy(zero_copy_only=False))[names.indices.to_numpy()]
    time_s = tracks["time_s"].to_numpy().astype(np.float64)
    x1, y1, x2, y2 = (tracks[name].to_numpy().astype(np.float64) for name in ("x1", "y1", "x2", "y2"))
    centre = np.stack([(x1 + x2) / 2, (y1 + y2) / 2], axis=1)
    if not (np.isfinite(time_s).all() and np.isfinite(centre).all()):
        raise UserError("the table of tracks holds a time_s or box that is not a finite number")
    rows = np.flatnonzero(track >= 0)
    rows = rows[np.lexsort((time_s[rows], track[rows], code[rows]))]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (np.diff(code[rows]) != 0) | (np.diff(track[rows]) != 0)
    start = np.flatnonzero(is_first)
    return _Tracks(
        cameras=cameras,
        camera=code[rows][start],
        track=track[rows][start],
        start=np.append(start, len(rows)),
        time_s=time_s[rows],
        centre=centre[rows],
    )


def _instant_range(found: _Tracks, instants: _Instants) -> tuple[np.ndarray, np.ndarray]:
    """For each track the smallest and largest i >= 0 with first <= S_i <= last; empty where smallest > largest."""
    if not len(found.track):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first_s, last_s = found.first_s, found.last_s
    span_s = last_s.max() - max(first_s.min(), instants.first_s)
    if span_s > _MOST_INSTANTS * instants.interval_s:
        raise UserError(
            f"interval_s {instants.interval_s:g} over {span_s:g} s of tracks makes {span_s / instants.interval_s:.3g} "
            f"instants; expected seconds to minutes, and at most {_MOST_INSTANTS:g} instants"
        )
    low = np.ceil((first_s - instants.first_s) / instants.interval_s)
    low += instants.at(low) < first_s  # the quotient is rounded: compare with S_i itself
    low -= instants.at(low - 1) >= first_s
    high = np.floor((last_s - instants.first_s) / instants.interval_s)
    high -= instants.at(high) > last_s
    high += instants.at(high + 1) <= last_s
    return np.maximum(low, 0).astype(np.int64), high.astype(np.int64)


def _sample_camera(
    found: _Tracks, rows: np.ndarray, instants: _Instants, *, low: np.ndarray, high: np.ndarray, min_distance: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (S_i, rows taken at S_i) for one camera; instants without candidates are stepped over."""
    span = np.round((found.last_s[rows] - found.first_s[rows]) / _SAME_SPAN_S)
    rows = rows[np.lexsort((found.track[rows], -span))]
    rank = np.arange(len(rows))[np.argsort(low[rows], kind="stable")]  # by first instant, longest first within it
    arrival = low[rows[rank]]
    waiting, arrived, number = rank[:0], 0, 0
    while arrived < len(rank) or len(waiting):
        number = number + 1 if len(waiting) else int(arrival[arrived])
        until = int(np.searchsorted(arrival, number, side="right"))
        waiting = np.sort(np.concatenate([waiting, rank[arrived:until]]))
        arrived = until
        waiting = waiting[high[rows[waiting]] >= number]
        is_taken = _sparse(_centres_at(found, rows[waiting], instants.at(number)), min_distance)
        yield instants.at(number), rows[waiting[is_taken]]
        waiting = waiting[~is_taken]


def _centres_at(found: _Tracks, rows: np.ndarray, instant_s: float) -> np.ndarray:
    """(m, 2) box centres at an instant at which all these tracks are alive."""
    left, end = found.start[rows], found.start[rows + 1]
    right = end - 1
    while (step := (right - left + 1) // 2).any():  # the last detection at or before the instant, by bisection
        is_before = found.time_s[left + step] <= instant_s
        left, right = np.where(is_before, left + step, left), np.where(is_before, right, left + step - 1)
        right = np.maximum(left, right)
    after = np.minimum(left + 1, end - 1)
    gap = found.time_s[after] - found.time_s[left]
    share = np.divide(instant_s - found.time_s[left], gap, out=np.zeros(len(rows)), where=gap > 0)
    return found.centre[left] + share[:, None] * (found.centre[after] - found.centre[left])


def _sparse(centres: np.ndarray, min_distance: float) -> np.ndarray:
    """Greedy choice in the given order: True where no chosen centre is nearer than `min_distance`."""
    is_taken = np.zeros(len(centres), dtype=bool)
    left = np.arange(len(centres))
    while len(left):
        is_taken[left[0]] = True
        offset = centres[left] - centres[left[0]]
        left = left[1:][np.hypot(offset[1:, 0], offset[1:, 1]) >= min_distance]
    return is_taken


def _labelled(found: _Tracks, rows: np.ndarray, instant_s: np.ndarray) -> pa.Table:
    order = np.lexsort((found.track[rows], instant_s, found.camera[rows]))
    rows, instant_s = rows[order], instant_s[order]
    camera = found.camera[rows]
    label = np.arange(len(rows)) - np.searchsorted(camera, camera)
    names = pa.DictionaryArray.from_arrays(pa.array(camera), pa.array(found.cameras, pa.string())).cast(pa.string())
    return pa.table([names, pa.array(found.track[rows]), pa.array(label), pa.array(instant_s)], schema=TRACKLETS_SCHEMA)
