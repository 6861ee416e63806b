"""PRID 2011 as a dataset (Hirzer et al., SCIA 2011), its multi-shot part: 178 people seen by both cameras, ten splits of 89 and 89.

The splits in common use come as splits_prid2011.json, which is not part of the distribution: it is read where it lies beside
the images, else splits are drawn with a seed. Either way dataset.json lists the people.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from data_tools.benchmarks import sequences
from data_tools.benchmarks.counts import PRID2011, PRID2011_LEFT_OUT, Counts
from data_tools.benchmarks.folders import inside
from data_tools.benchmarks.sequences import Sequences, Split, check_split_number, read_sequences
from taudl_dist.errors import UserError

CAMERAS = ("cam_a", "cam_b")
SPLITS_FILE = "splits_prid2011.json"
_IN_BOTH = range(1, 201)
"""Persons 1 to 200 are the same in both cameras; from 201 on, equal numbers are different people."""

_PERSON = re.compile(r"person_(?P<person>\d{4})", re.IGNORECASE)
_FRAME = re.compile(r"\d{4}\.png", re.IGNORECASE)


def import_benchmark(
    root: str | Path,
    out: str | Path,
    *,
    split: int = 0,
    seed: int | None = None,
    identities: int = 0,
    allow_mismatch: bool = False,
) -> Counts:
    """Writes the dataset of one split of a copy of PRID 2011 and returns its counts.

    Args:
        root: the folder that holds multi_shot, or its parent.
        split: number of the split, 0 to 9.
        seed: draws the splits where the copy has no splits_prid2011.json; None is 0.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, the layout is another, an image is unreadable, or the splits file does not fit.
        UsageError: no such split, or a seed although the copy has its splits file.
    """
    check_split_number(split)
    root = inside(root, "prid_2011", "PRID2011", holding="multi_shot")
    cameras = {camera: _sequences(root / "multi_shot" / camera) for camera in CAMERAS}
    people = sorted(set(cameras["cam_a"]) & set(cameras["cam_b"]) & set(_IN_BOTH) - PRID2011_LEFT_OUT)
    cameras = {camera: {person: found[person] for person in people} for camera, found in cameras.items()}
    places = (root / SPLITS_FILE, root.parent / SPLITS_FILE)
    chosen = sequences.find_split(places, _read_split, people, split, seed=seed)
    return sequences.write_split(
        out, cameras, chosen, number=split, benchmark="prid2011", name="PRID2011", title="PRID 2011", published=PRID2011,
        identities=identities, allow_mismatch=allow_mismatch,
    )  # fmt: skip


def _sequences(folder: Path) -> Sequences:
    return read_sequences(folder, person=_PERSON, frame=_FRAME, benchmark="PRID2011", example="person_0001/0001.png")


def _read_split(path: Path, people: list[int], split: int) -> Split:
    try:
        entry = json.loads(path.read_text())[split]
        train, test = _numbers(entry["train"]), _numbers(entry["test"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path}: split {split} cannot be read ({type(error).__name__}: {error}); expected a list of ten entries"
            ' {"train": ["person_0001", ...], "test": [...]}'
        ) from None
    if absent := sorted(set(train + test) - set(people)):
        raise UserError(
            f"{path}: split {split} names person {absent[0]}, who is not among the {len(people)} of this copy;"
            " of a subset made on purpose move the file away, and splits are drawn"
        )
    if both := sorted(set(train) & set(test)):
        raise UserError(f"{path}: split {split} has person {both[0]} in both halves; get the file again")
    return Split(train=train, test=test, origin=path.name)


def _numbers(names: list[Any]) -> list[int]:
    """Persons of folder names, ascending."""
    matches = [_PERSON.fullmatch(name) for name in names]
    if None in matches:
        raise ValueError(f"{names[matches.index(None)]!r} is not the name of a person's folder")
    return sorted({int(match["person"]) for match in matches if match})
