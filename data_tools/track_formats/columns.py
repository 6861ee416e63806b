"""Tables whose columns have names: our own (Parquet or CSV) and the CSV that supervision's sink writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.track_formats.rows import TRACKS_SCHEMA, Hints, Rows
from data_tools.track_formats.text import delimiter_of, first_line, line_finder, read_columns, split
from taudl_dist.errors import UserError

_OWN_REQUIRED = ("track", "frame", "x1", "y1", "x2", "y2")
_OWN_OPTIONAL = ("camera", "time_s", "score")
_SINK_REQUIRED = ("x_min", "y_min", "x_max", "y_max", "tracker_id", "frame_index")


def read_csv(path: Path, hints: Hints) -> Rows:
    """CSV with a header that names the columns of the track table; camera, time_s and score may be absent."""
    header, delimiter = _header(path, _OWN_REQUIRED)
    wanted = [name for name in (*_OWN_REQUIRED, *_OWN_OPTIONAL) if name in header]
    columns = read_columns(
        path, delimiter=delimiter, names=header, wanted=wanted, has_header=True, text=["camera"], optional=["score"]
    )
    return _own(path, columns, hints, where=line_finder(path, True))


def read_parquet(path: Path, hints: Hints) -> Rows:
    """Parquet with the columns of the track table; camera, time_s and score may be absent."""
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        _require(path, schema.names, _OWN_REQUIRED)
        wanted = [name for name in (*_OWN_REQUIRED, *_OWN_OPTIONAL) if name in schema.names]
        table = parquet.read_table(path, columns=wanted)
        table = table.cast(pa.schema([TRACKS_SCHEMA.field(name) for name in wanted]))
    except (pa.ArrowException, OSError) as error:  # damage inside a page is an OSError
        raise UserError(f"{path}: not a Parquet file of tracks: {error}") from None
    for name in wanted:
        if table[name].null_count:
            raise UserError(f"{path}: column {name} has {table[name].null_count} nulls; expected a value in every row")
    columns = {name: table[name].combine_chunks() for name in wanted}
    return _own(path, {name: c if name == "camera" else c.to_numpy() for name, c in columns.items()}, hints)


def read_supervision(path: Path, hints: Hints) -> Rows:
    """CSV of supervision's CSVSink with a custom column `frame_index` (from 0); an empty tracker_id is no track."""
    header, delimiter = _header(path, _SINK_REQUIRED)
    wanted = [*_SINK_REQUIRED, *(name for name in ("confidence", "class_id") if name in header)]
    columns = read_columns(
        path,
        delimiter=delimiter,
        names=header,
        wanted=wanted,
        has_header=True,
        optional=["tracker_id", "confidence", "class_id"],
    )
    rows = Rows(
        path=path,
        camera=hints.camera or path.stem,
        track=_filled(columns["tracker_id"], -1),
        frame=columns["frame_index"],
        frame_base=hints.frame_base or 0,
        box=np.stack([columns[name] for name in _SINK_REQUIRED[:4]], axis=1),
        score=_filled(columns.get("confidence", np.ones(len(columns["tracker_id"]))), 1.0),
        where=line_finder(path, True),
    )
    if hints.class_id is None:
        return rows
    if "class_id" not in columns:
        raise UserError(f"{path}: class_id {hints.class_id} was asked for, but there is no column class_id")
    return rows.select(columns["class_id"] == hints.class_id)


def _own(path: Path, columns: dict, hints: Hints, **where) -> Rows:
    if hints.class_id is not None:
        raise UserError(
            f"{path}: class_id {hints.class_id} was asked for, but this format has no classes; leave it out"
        )
    if hints.camera is not None and "camera" in columns:
        raise UserError(
            f"{path}: camera {hints.camera!r} was given, but the file has its own column camera; leave it out"
        )
    return Rows(
        path=path,
        camera=columns.get("camera", hints.camera or path.stem),
        track=columns["track"],
        frame=columns["frame"],
        frame_base=hints.frame_base or 0,
        box=np.stack([columns[name] for name in _OWN_REQUIRED[2:]], axis=1).astype(np.float64),
        score=_filled(columns.get("score", np.ones(len(columns["track"]))), 1.0),
        time_s=columns.get("time_s"),
        **where,
    )


def _header(path: Path, required: tuple[str, ...]) -> tuple[list[str], str]:
    line = first_line(path)
    delimiter = delimiter_of(line)
    header = [name.strip('"') for name in split(line, delimiter)]
    _require(path, header, required)
    return header, delimiter


def _require(path: Path, found: list[str], required: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        raise UserError(
            f"{path}: column {missing[0]} is missing; found {', '.join(found)}; expected {', '.join(required)}"
        )


def _filled(values: np.ndarray, default: float) -> np.ndarray:
    return np.where(np.isnan(values), default, values) if values.dtype.kind == "f" else values
