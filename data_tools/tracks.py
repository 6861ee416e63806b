"""Tracks from the formats that trackers and labelling tools write, as one Arrow table; a row per detection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.camera_name import camera_name
from data_tools.track_formats.coco import read_coco
from data_tools.track_formats.columns import read_csv, read_parquet, read_supervision
from data_tools.track_formats.mot import read_mot, sequence_fps, write_mot
from data_tools.track_formats.rows import TRACKS_SCHEMA, Hints, Rows, to_table
from data_tools.track_formats.text import delimiter_of, first_line, split
from data_tools.track_formats.ultralytics import is_label, read_ultralytics
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

__all__ = [
    "FORMATS", "TRACKS_SCHEMA", "TRACK_SUFFIXES", "is_blank", "is_label_folder", "read_tracks", "rows_by_camera", "without_tracks", "write_mot",
]  # fmt: skip

FORMATS: dict[str, Callable[[Path, Hints], Rows]] = {
    "mot": read_mot,
    "supervision": read_supervision,
    "ultralytics": read_ultralytics,
    "coco": read_coco,
    "csv": read_csv,
    "parquet": read_parquet,
}
"""Reader by the name of its format."""

TRACK_SUFFIXES = (".txt", ".csv", ".json", ".parquet")
"""File name endings taken for tracks when a folder is searched."""


def read_tracks(
    path: str | Path,
    *,
    format: str = "auto",
    camera: str | None = None,
    fps: float | Mapping[str, float] | None = None,
    frame_base: int | None = None,
    image_size: tuple[int, int] | Mapping[str, tuple[int, int]] | None = None,
    class_id: int | None = None,
    announce: bool = True,
) -> pa.Table:
    """The tracks of a file, or of a folder with one file per camera, as a table of `TRACKS_SCHEMA`.

    Args:
        path: A file of any known format, a folder of such files whose stems name the cameras, or a folder of
            ultralytics labels.
        format: A name of `FORMATS`; `auto` looks at the content and logs what it took.
        camera: Name of the camera of a single file; by default the file's stem.
        fps: Frames per second, for all cameras or by camera. Only sources without times need it; without it
            MOTChallenge's seqinfo.ini is asked, else 25 is taken and logged.
        frame_base: Number of the first frame; by default what the format prescribes (MOTChallenge and ultralytics 1).
        image_size: Width and height in pixels, for all cameras or by camera; needed by ultralytics labels.
        class_id: Keep the rows of this class only, in formats that have classes.
        announce: Log the format that `auto` took.

    Raises:
        UserError: a missing, empty or damaged source; the message names file, line, value and expectation.
    """
    path = Path(path)
    if frame_base is not None and frame_base < 0:
        raise UsageError(f"frame base {frame_base}: expected the number of the first frame, 0 or more")
    if format not in ("auto", *FORMATS):
        raise UsageError(f"track format {format!r} is unknown; expected auto, {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected a file of tracks or a folder with one file per camera"
        )
    hints = Hints(camera=camera, fps=fps, frame_base=frame_base, image_size=image_size, class_id=class_id)
    if path.is_dir() and not is_label_folder(path, format):
        return _read_folder(path, format, hints)
    if path.is_file() and is_blank(path):
        raise UserError(f"{path}: the file is empty; expected tracks, a line or record per detection")
    name = _recognise(path) if format == "auto" else format
    if format == "auto" and announce:
        log(f"{path}: read as {name} tracks")
    return _read_one(path, name, hints)


def rows_by_camera(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each camera, in the order they have; in one pass, for there may be thousands of cameras."""
    camera = table["camera"].combine_chunks().dictionary_encode()
    code = camera.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(code, kind="stable")
    table, bounds = table.take(order), np.searchsorted(code[order], np.arange(len(camera.dictionary) + 1)).tolist()
    names = camera.dictionary.to_pylist()
    return {name: table.slice(begin, end - begin) for name, begin, end in zip(names, bounds[:-1], bounds[1:])}


def without_tracks(tracks: str | Path, cameras: Collection[str]) -> list[str]:
    """Those of the cameras whose file in a folder of tracks is empty: `taudl track` saw nobody there."""
    folder = Path(tracks)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file.stem for file in files if file.suffix in TRACK_SUFFIXES and file.stem in cameras and is_blank(file)]


def _read_one(path: Path, name: str, hints: Hints) -> pa.Table:
    if path.is_dir() != (name == "ultralytics"):
        raise UserError(
            f"{path}: {name} tracks are a {'folder of files' if name == 'ultralytics' else 'file'}; give that"
        )
    if name == "mot" and hints.fps is None:
        hints = replace(hints, fps=sequence_fps(path))
    return to_table(FORMATS[name](path, hints), hints)


def _read_folder(path: Path, name: str, hints: Hints) -> pa.Table:
    if hints.camera is not None:
        raise UserError(
            f"{path}: camera {hints.camera!r} was given for a folder; its files name the cameras, leave it out"
        )
    files = sorted(file for file in path.iterdir() if file.suffix in TRACK_SUFFIXES and file.name[0] != ".")
    stems = [camera_name(file) for file in files]
    twice = next((stem for stem, count in Counter(stems).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: found two files for camera {twice!r}; expected one file per camera")
    names = {file: _recognise(file) if name == "auto" else name for file in files if not _is_empty_camera(file)}
    if not names:
        raise UserError(
            f"{path}: no tracks in this folder; expected files {', '.join('*' + s for s in TRACK_SUFFIXES)}"
        )
    if name == "auto":
        kinds = Counter(names.values())
        log(f"{path}: read as {', '.join(f'{kind} tracks ({count} files)' for kind, count in kinds.items())}")
    return pa.concat_tables([_read_one(file, kind, hints) for file, kind in names.items()])


def _is_empty_camera(file: Path) -> bool:
    """In a folder an empty file is a camera that saw nobody; it is said, not refused."""
    if is_blank(file):
        log(f"{file}: empty, so this camera has no tracks")
        return True
    return False


def is_blank(file: Path) -> bool:
    """Whether nothing but white space stands in a file."""
    with file.open("rb") as opened:
        return not any(block.strip() for block in iter(lambda: opened.read(65536), b""))


def is_label_folder(path: Path, name: str) -> bool:
    """Whether a folder is one camera's ultralytics labels, a file per frame, in format `name` or auto."""
    if name != "auto":
        return name == "ultralytics"
    labels = (file for file in sorted(path.glob("*.txt")) if file.stat().st_size)
    first = next(labels, None)
    return first is not None and is_label(first.name, first_line(first))


def _recognise(path: Path) -> str:
    """The format of a source by its content."""
    if path.is_dir():
        return "ultralytics"
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return "parquet"
    line = first_line(path)
    if line.startswith(("{", "[")):
        return "coco"
    names = {name.strip('"') for name in split(line, delimiter_of(line))}
    if is_label(path.name, line):
        return "ultralytics"
    if "x_min" in names:
        return "supervision"
    return "csv" if {"track", "x1"} & names else "mot"
