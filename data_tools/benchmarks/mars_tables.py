"""The tables of MARS (Zheng et al., ECCV 2016) that its authors' evaluation code holds: tracklets, queries, names of images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from data_tools.benchmarks.counts import Counts
from data_tools.benchmarks.matlab import read_integers
from data_tools.benchmarks.pictures import DISTRACTOR, JUNK, per_camera
from taudl_dist.errors import UserError

Gallery = Literal["without-queries", "with-queries"]

CAMERAS = range(1, 7)
START, END, PERSON, CAMERA = range(4)
"""Columns of a table: first and last line, from 1, in the list of names; identity (0 distractor, -1 junk); camera."""

_NAME = re.compile(r"(?P<person>00-1|\d{4})C(?P<camera>[1-6])T\d{4}F\d{3,}\.jpg")


def read_tables(info: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training table (N, 4), test table (M, 4) and the rows of the latter, from 0, that are queries; int64.

    Raises:
        UserError: a file is missing or is not what its name says.
    """
    if not info.is_dir():
        raise UserError(
            f"{info}: no such folder; it comes apart from the images, with the code MARS-evaluation of the benchmark's authors:"
            " copy its folder info there"
        )
    train = read_table(info / "tracks_train_info.mat", "track_train_info")
    test = read_table(info / "tracks_test_info.mat", "track_test_info")
    queries = read_integers(info / "query_IDX.mat", "query_IDX").ravel() - 1
    if not np.isin(queries, np.arange(len(test))).all() or len(np.unique(queries)) < len(queries):
        raise UserError(
            f"{info / 'query_IDX.mat'}: expected different rows 1 to {len(test)} of the test table; get it again"
        )
    return train, test, queries


def read_table(path: Path, name: str) -> np.ndarray:
    """A table of tracklets that follow each other in the list of names."""
    table = read_integers(path, name)
    starts_well = table.shape[1] == 4 and len(table) and table[0, START] == 1
    if not starts_well or (table[1:, START] != table[:-1, END] + 1).any() or (table[:, END] < table[:, START]).any():
        raise UserError(
            f"{path}: {name} of shape {table.shape} is no table of tracklets, start to end from line 1; get it again"
        )
    return table


def read_names(path: Path, table: np.ndarray) -> list[str]:
    """The image names that a table's columns start and end count, from 1.

    Raises:
        UserError: the file is missing, or names do not fit the table.
    """
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it comes with the tables of MARS") from None
    if len(names) != table[-1, END]:
        raise UserError(
            f"{path}: {len(names):,} names, and its table counts {table[-1, END]:,}; get both of one source"
        )
    for first, last, person, camera in table.tolist():
        for line in range(first, last + 1):
            match = _NAME.fullmatch(names[line - 1])
            if not match:
                raise UserError(
                    f"{path}, line {line}: {names[line - 1]!r} is not a name of MARS, such as 0001C1T0001F001.jpg"
                )
            if int(match["person"].removeprefix("00")) != person or int(match["camera"]) != camera:
                raise UserError(
                    f"{path}, line {line}: {names[line - 1]}, but its table says identity {person}, camera {camera}"
                )
    return names


def count(train: np.ndarray, test: np.ndarray, queries: np.ndarray, *, gallery: Gallery) -> Counts:
    """The numbers a copy is known by, from its tables."""
    pairs = np.unique(train[:, [PERSON, CAMERA]], axis=0)
    held = test[gallery_rows(test, queries, gallery=gallery)]
    return {
        "train tracklets": len(train),
        "train identities": num_people(train),
        "train images": num_images(train),
        "train tracklets per camera": per_camera(train[:, CAMERA].tolist(), CAMERAS),
        "train identities per camera": per_camera(pairs[:, 1].tolist(), CAMERAS),
        "test tracklets": len(test),
        "test images": num_images(test),
        "test identities": num_people(test),
        "test tracklets of distractors (0)": int((test[:, PERSON] == DISTRACTOR).sum()),
        "test tracklets of junk (-1)": int((test[:, PERSON] == JUNK).sum()),
        "query tracklets": len(queries),
        "query identities": num_people(test[queries]),
        "query images": num_images(test[queries]),
        "gallery tracklets": len(held),
        "gallery identities": num_people(held),
        "valid queries": num_valid(test[queries], held),
    }


def num_people(table: np.ndarray) -> int:
    """Identities without distractors and junk."""
    return len(np.unique(table[table[:, PERSON] > DISTRACTOR, PERSON]))


def num_images(table: np.ndarray) -> int:
    """Lines of the list of names that the tracklets span."""
    return int((table[:, END] - table[:, START] + 1).sum())


def num_valid(queries: np.ndarray, gallery: np.ndarray) -> int:
    """Queries with a tracklet of the same person in another camera of the gallery."""
    cameras: dict[int, set[int]] = {}
    for person, camera in gallery[:, [PERSON, CAMERA]].tolist():
        cameras.setdefault(person, set()).add(camera)
    pairs = queries[:, [PERSON, CAMERA]].tolist()
    return sum(bool(cameras.get(person, set()) - {camera}) for person, camera in pairs)


def gallery_rows(test: np.ndarray, queries: np.ndarray, *, gallery: Gallery) -> np.ndarray:
    """Rows of the test table, from 0, that make the gallery."""
    if gallery == "with-queries":
        return np.arange(len(test))
    is_query = np.isin(np.arange(len(test)), queries)
    return np.flatnonzero(~is_query & (test[:, PERSON] != JUNK))
