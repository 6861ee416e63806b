"""The track table every reader produces, and the one place where its rows are checked.

A reader only says what stands in its file; `to_table` turns that into the common table or names the first bad row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from taudl_dist.errors import UserError
from taudl_dist.progress import log

TRACKS_SCHEMA = pa.schema(
    [
        ("camera", pa.string()),
        ("track", pa.int64()),
        ("frame", pa.int64()),
        ("time_s", pa.float64()),
        *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "score")),
    ]
)
"""A row per detection. track -1: no track. frame: index into the video, from 0. Boxes: pixels from 0, may leave the
picture. score: as the source gives it."""

GUESSED_FPS = 25.0
_LARGEST_EXACT = 2**53  # above it a float64 skips integers, and two ids could become one


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the caller knows about a source beyond its content; None where nothing was said."""

    camera: str | None = None
    fps: float | Mapping[str, float] | None = None
    frame_base: int | None = None
    image_size: tuple[int, int] | Mapping[str, tuple[int, int]] | None = None
    class_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The content of a source, one entry per detection, before any check."""

    path: Path
    camera: str | pa.Array
    track: np.ndarray
    frame: np.ndarray
    frame_base: int
    box: np.ndarray
    """(N, 4) left, top, right, bottom in pixels from 0."""
    score: np.ndarray
    time_s: np.ndarray | None = None
    where: Callable[[int], str] = field(default=lambda row: f"row {row + 1}")
    """Row -> its place in the file, for messages."""

    def select(self, keep: np.ndarray) -> Rows:
        """The rows for which `keep` (N,) is true; messages still name their places in the file."""
        kept = np.flatnonzero(keep)
        return Rows(
            path=self.path,
            camera=self.camera if isinstance(self.camera, str) else self.camera.take(pa.array(kept)),
            track=self.track[kept],
            frame=self.frame[kept],
            frame_base=self.frame_base,
            box=self.box[kept],
            score=self.score[kept],
            time_s=None if self.time_s is None else self.time_s[kept],
            where=lambda row: self.where(int(kept[row])),
        )


def to_table(rows: Rows, hints: Hints) -> pa.Table:
    """The checked track table of a source.

    Raises:
        UserError: the first row that is not a detection, with file, place, value and expectation.
    """
    track, frame = _whole(rows, rows.track, "track id"), _whole(rows, rows.frame, "frame")
    _reject(rows, track < -1, track, "track id", "-1 (no track) or an id from 0")
    base = rows.frame_base
    _reject(rows, frame < base, frame, "frame", f"{base} or more; if its first frame is not {base}, give --frame-base")
    _check_boxes(rows)
    _reject(rows, ~np.isfinite(rows.score), rows.score, "score", "a finite number")
    camera = _camera_column(rows)
    _reject_repeats(rows, camera, track, frame)
    if rows.time_s is not None:
        _reject(rows, ~np.isfinite(rows.time_s), rows.time_s, "time_s", "a finite number of seconds")
    time_s = _times(rows, camera, frame - base, hints) if rows.time_s is None else rows.time_s
    corners = rows.box.astype(np.float32).T
    columns = [camera.cast(pa.string()), track, frame - base, time_s, *corners, rows.score.astype(np.float32)]
    return pa.table([pa.array(column) for column in columns], schema=TRACKS_SCHEMA)


def look_up(value, camera: str):
    """A hint for one camera: a plain value holds for all cameras, a mapping for those it names (else None)."""
    return value.get(camera) if isinstance(value, Mapping) else value


def _camera_column(rows: Rows) -> pa.DictionaryArray:
    if not isinstance(rows.camera, str):
        return rows.camera.dictionary_encode()
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows.track), np.int32)), pa.array([rows.camera]))


def _whole(rows: Rows, values: np.ndarray, name: str) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    with np.errstate(invalid="ignore"):
        is_whole = (values == np.floor(values)) & (np.abs(values) < _LARGEST_EXACT)
    _reject(rows, ~is_whole, values, name, "a whole number below 2^53")
    return values.astype(np.int64)


def _check_boxes(rows: Rows) -> None:
    finite = np.isfinite(rows.box).all(axis=1)
    _reject(rows, ~finite, rows.box, "box (left, top, right, bottom)", "four finite numbers")
    # Compared as float32, which is what the table holds: a width that vanishes there is no width.
    with np.errstate(over="ignore"):
        corners = rows.box.astype(np.float32)
    size = corners[:, 2:] - corners[:, :2]
    _reject(rows, ~(np.isfinite(size) & (size > 0)).all(axis=1), size, "box (width, height)", "sizes above 0 pixels")


def _reject_repeats(rows: Rows, camera: pa.DictionaryArray, track: np.ndarray, frame: np.ndarray) -> None:
    tracked = np.flatnonzero(track >= 0)
    codes = camera.indices.to_numpy()[tracked]
    order = tracked[np.lexsort((tracked, frame[tracked], track[tracked], codes))]
    codes = camera.indices.to_numpy()[order]
    same = (np.diff(codes) == 0) & (np.diff(track[order]) == 0) & (np.diff(frame[order]) == 0)
    if same.any():
        later = int(order[1:][same].min())
        at = int(np.flatnonzero(order == later)[0])
        raise UserError(
            f"{rows.path}, {rows.where(later)}: track {track[later]} has a second box in frame {frame[later]}, after "
            f"{rows.where(int(order[at - 1]))}; expected one box per track and frame. If it was written twice, write it anew"
        )


def _times(rows: Rows, camera: pa.DictionaryArray, frame: np.ndarray, hints: Hints) -> np.ndarray:
    names = camera.dictionary.to_pylist()
    rates = [look_up(hints.fps, name) for name in names]
    unknown = [name for name, rate in zip(names, rates) if rate is None]
    if unknown:
        log(
            f"{rows.path}: no times in the file and no fps given for camera {unknown[0]}: "
            f"taking {GUESSED_FPS:g} frames per second (read_tracks(..., fps=...) sets it)"
        )
    per_camera = np.array([GUESSED_FPS if rate is None else rate for rate in rates], dtype=np.float64)
    wrong = ~(np.isfinite(per_camera) & (per_camera > 0))
    if wrong.any():
        raise UserError(f"fps {per_camera[wrong][0]:g} of {rows.path}: expected a number of frames per second above 0")
    return frame / per_camera[camera.indices.to_numpy()]


def _reject(rows: Rows, bad: np.ndarray, values: np.ndarray, name: str, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        found = ", ".join(f"{value:.10g}" for value in np.atleast_1d(values[row]))
        raise UserError(f"{rows.path}, {rows.where(row)}: {name} is {found}; expected {expected}")
