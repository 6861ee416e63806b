"""The label folder of ultralytics: `<video>_<frame>.txt`, lines `class cx cy w h [confidence] [track]`.

Boxes are shares of the picture, so its size must be known. Frames count from 1. A sixth field is the confidence or the
track, depending on how the files were written; whole numbers throughout mean tracks.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.track_formats.rows import Hints, Rows, look_up
from taudl_dist.errors import UserError

_NAME = re.compile(r"(?P<video>.+)_(?P<frame>\d+)\.txt")


def read_ultralytics(path: Path, hints: Hints) -> Rows:
    """All videos of a label folder; the camera is the video's name."""
    names, frames, places, lines = _collect(path)
    if hints.camera is not None and len(set(names)) > 1:
        raise UserError(f"{path}: camera {hints.camera!r} was given for {len(set(names))} videos; leave it out")
    cameras = [hints.camera or name for name in names]
    values, num_fields = _padded(lines)
    track, score = _track_and_score(values, num_fields)
    rows = Rows(
        path=path,
        camera=pa.array(cameras, pa.string()),
        track=track,
        frame=np.array(frames, dtype=np.int64),
        frame_base=1 if hints.frame_base is None else hints.frame_base,
        box=_pixels(values[:, 1:5], _sizes(path, cameras, hints)),
        score=score,
        where=lambda row: places[row],
    )
    return rows if hints.class_id is None else rows.select(values[:, 0] == hints.class_id)


def is_label(name: str, line: str) -> bool:
    """Whether a file of this name that starts with this line is a label file."""
    try:
        values = [float(field) for field in line.split()]
    except ValueError:
        return False
    is_shape = 5 <= len(values) <= 7 and values[0] >= 0 and all(0 <= value <= 1 for value in values[1:5])
    return bool(_NAME.fullmatch(name)) and is_shape


def _collect(path: Path) -> tuple[list[str], list[int], list[str], list[list[float]]]:
    names: list[str] = []
    frames: list[int] = []
    places: list[str] = []
    lines: list[list[float]] = []
    for file in sorted(path.glob("*.txt")):
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise UserError(f"{file}: expected a name like <video>_<frame>.txt in a folder of ultralytics labels")
        for at, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
            if line.strip():
                places.append(f"{file.name} line {at}")
                lines.append(_numbers(file, at, line))
                names.append(match["video"])
                frames.append(int(match["frame"]))
    if not lines:
        raise UserError(f"{path}: no label lines in it; expected files <video>_<frame>.txt")
    return names, frames, places, lines


def _numbers(file: Path, at: int, line: str) -> list[float]:
    try:
        values = [float(field) for field in line.split()]
    except ValueError:
        values = []
    if not 5 <= len(values) <= 7:
        raise UserError(
            f"{file}, line {at}: found {line.strip()[:120]!r}, expected class cx cy w h [confidence] [track]"
        )
    return values


def _padded(lines: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    num_fields = np.array([len(line) for line in lines])
    values = np.full((len(lines), 7), np.nan)
    values[np.arange(7) < num_fields[:, None]] = np.concatenate(lines)
    return values, num_fields


def _track_and_score(values: np.ndarray, num_fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    track, score = np.where(num_fields == 7, values[:, 6], -1), np.where(num_fields == 7, values[:, 5], 1.0)
    sixth = values[num_fields == 6, 5]
    if (num_fields == 7).any() or not (sixth == np.floor(sixth)).all():
        score[num_fields == 6] = sixth
    else:
        track[num_fields == 6] = sixth
    return track, score


def _sizes(path: Path, cameras: list[str], hints: Hints) -> np.ndarray:
    known = {camera: look_up(hints.image_size, camera) for camera in set(cameras)}
    for camera, size in sorted(known.items()):
        if size is None or min(size) <= 0:
            raise UserError(
                f"{path}: boxes are shares of the picture and its size is {size} for camera {camera}; "
                "expected image_size=(width, height) in pixels"
            )
    return np.array([known[camera] for camera in cameras], dtype=np.float64)


def _pixels(shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    centre, half = shares[:, :2] * sizes, shares[:, 2:] * sizes / 2
    return np.concatenate([centre - half, centre + half], axis=1)
