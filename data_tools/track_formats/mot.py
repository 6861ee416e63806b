"""MOTChallenge text: frame, id, left, top, width, height[, confidence[, class or x, visibility or y, z]].

Frames count from 1 and so do pixels: the top left pixel of a picture is (1, 1). Id -1 is a detection without a track.
In ground truth a confidence of 0 marks a row to ignore.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from data_tools.atomic import whole_file
from data_tools.track_formats.rows import Hints, Rows
from data_tools.track_formats.text import delimiter_of, first_line, line_finder, read_columns, split
from taudl_dist.errors import UserError
from taudl_dist.progress import log

_COLUMNS = ("frame", "id", "left", "top", "width", "height", "confidence", "class", "visibility", "z")


def read_mot(path: Path, hints: Hints) -> Rows:
    """Detections, a tracker's results, or ground truth; comma, semicolon, tab or blank separated."""
    line = first_line(path)
    delimiter = delimiter_of(line)
    num_fields = len(split(line, delimiter))
    if num_fields < 6:
        raise UserError(
            f"{path}, first line: found {num_fields} fields, expected frame, id, left, top, width, height and perhaps more"
        )
    names = [*_COLUMNS, *(f"field {n}" for n in range(11, num_fields + 1))][:num_fields]
    wanted = names[: 7 if hints.class_id is None else 8]
    columns = read_columns(path, delimiter=delimiter, names=names, wanted=wanted, has_header=False)
    corner = np.stack([columns["left"], columns["top"]], axis=1) - 1
    score = columns.get("confidence", np.ones(len(corner)))
    rows = Rows(
        path=path,
        camera=hints.camera or path.stem,
        track=columns["id"],
        frame=columns["frame"],
        frame_base=1 if hints.frame_base is None else hints.frame_base,
        box=np.concatenate([corner, corner + np.stack([columns["width"], columns["height"]], axis=1)], axis=1),
        score=score,
        where=line_finder(path, False),
    )
    return _select(rows, _is_ground_truth(path, num_fields, score), columns.get("class"), hints)


def sequence_fps(path: Path) -> float | None:
    """The frame rate in the `seqinfo.ini` that MOTChallenge keeps beside or above its det and gt folders."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "seqinfo.ini").is_file():
            try:
                parser = configparser.ConfigParser()
                parser.read(folder / "seqinfo.ini")
                return parser.getfloat("Sequence", "frameRate")
            except (configparser.Error, ValueError) as error:
                raise UserError(
                    f"{folder / 'seqinfo.ini'}: expected a number frameRate in [Sequence]: {error}"
                ) from None
    return None


def write_mot(table: pa.Table, path: str | Path) -> None:
    """Writes the tracks of one camera as MOTChallenge text, ordered by frame and track; whole or not at all."""
    cameras = table["camera"].unique().to_pylist()
    if len(cameras) > 1:
        raise UserError(f"{path}: found tracks of {len(cameras)} cameras ({', '.join(cameras[:3])}, ...), expected one")
    table = table.sort_by([("frame", "ascending"), ("track", "ascending")])
    x1, y1, x2, y2 = (table[name].to_numpy().astype(np.float64) for name in ("x1", "y1", "x2", "y2"))
    boxes = [np.round(column, 3) for column in (x1 + 1, y1 + 1, x2 - x1, y2 - y1)]
    score = np.round(table["score"].to_numpy().astype(np.float64), 4)
    unused = np.full(len(x1), -1)
    columns = [table["frame"].to_numpy() + 1, table["track"].to_numpy(), *boxes, score, unused, unused, unused]
    with whole_file(Path(path)) as temporary:
        csv.write_csv(pa.table(columns, names=list(_COLUMNS)), temporary, csv.WriteOptions(include_header=False))


def _is_ground_truth(path: Path, num_fields: int, score: np.ndarray) -> bool:
    """By name (gt.txt, gt/...), or nine fields of which the seventh is a flag: no detector scores only 0 and 1."""
    is_flag = num_fields == 9 and bool(np.isin(score, (0, 1)).all())
    return path.stem == "gt" or path.parent.name == "gt" or is_flag


def _select(rows: Rows, is_ground_truth: bool, classes: np.ndarray | None, hints: Hints) -> Rows:
    keep = np.ones(len(rows.track), dtype=bool)
    if is_ground_truth:
        keep &= rows.score != 0
    if hints.class_id is not None:
        if classes is None:
            raise UserError(
                f"{rows.path}: class_id {hints.class_id} was asked for, but its rows have no eighth field (class)"
            )
        keep &= classes == hints.class_id
    if keep.all():
        return rows
    log(
        f"{rows.path}: {int((~keep).sum())} rows left out ({'ground truth to ignore, ' * is_ground_truth}other classes)"
    )
    return rows.select(keep)
