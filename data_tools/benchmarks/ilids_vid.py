"""iLIDS-VID as a dataset (Wang et al., ECCV 2014): 300 people seen by two cameras, ten splits of 150 and 150.

The splits are in the distribution's train_test_splits_ilidsvid.mat; without it they are drawn with a seed. Either way
dataset.json lists the people.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.benchmarks import sequences
from data_tools.benchmarks.counts import ILIDS_VID, Counts
from data_tools.benchmarks.folders import inside
from data_tools.benchmarks.matlab import read_integers
from data_tools.benchmarks.sequences import NUM_SPLITS, Sequences, Split, check_split_number, read_sequences
from taudl_dist.errors import UserError

CAMERAS = ("cam1", "cam2")
SPLITS_FILE = "train_test_splits_ilidsvid.mat"
SPLITS_DIR = "train-test people splits"

_PERSON = re.compile(r"person(?P<person>\d{3})", re.IGNORECASE)


def import_benchmark(
    root: str | Path,
    out: str | Path,
    *,
    split: int = 0,
    seed: int | None = None,
    identities: int = 0,
    allow_mismatch: bool = False,
) -> Counts:
    """Writes the dataset of one split of a copy of iLIDS-VID and returns its counts.

    Args:
        root: the folder that holds sequences, or its parent.
        split: number of the split, 0 to 9.
        seed: draws the splits where the copy has no train_test_splits_ilidsvid.mat; None is 0.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, the layout is another, an image is unreadable, or the splits file does not fit.
        UsageError: no such split, or a seed although the copy has its splits file.
    """
    check_split_number(split)
    root = inside(root, "i-LIDS-VID", "iLIDS-VID", holding="sequences")
    cameras = {camera: _sequences(root / "sequences" / camera, camera) for camera in CAMERAS}
    if alone := sorted(set(cameras["cam1"]) ^ set(cameras["cam2"])):
        raise UserError(
            f"{root}/sequences: person {alone[0]} is in one camera only; the copy is incomplete, unpack it again"
        )
    places = (root / SPLITS_DIR / SPLITS_FILE, root / SPLITS_FILE)
    chosen = sequences.find_split(places, _read_split, sorted(cameras["cam1"]), split, seed=seed)
    return sequences.write_split(
        out, cameras, chosen, number=split, benchmark="ilids-vid", name="iLIDS-VID", title="iLIDS-VID", published=ILIDS_VID,
        identities=identities, allow_mismatch=allow_mismatch,
    )  # fmt: skip


def _sequences(folder: Path, camera: str) -> Sequences:
    frame = re.compile(rf"{camera}_person(?P<person>\d{{3}})_\d{{5}}\.png", re.IGNORECASE)
    return read_sequences(
        folder, person=_PERSON, frame=frame, benchmark="iLIDS-VID", example=f"person001/{camera}_person001_00317.png"
    )


def _read_split(path: Path, people: list[int], split: int) -> Split:
    """Rows are splits; the first half of the columns is to test on. Entries count the sorted folders from 1: numbers have gaps."""
    table = read_integers(path, "ls_set")
    if len(table) != NUM_SPLITS or sorted(table[split].tolist()) != list(range(1, len(people) + 1)):
        raise UserError(
            f"{path}: ls_set of shape {table.shape} does not divide the {len(people)} people of this copy; expected"
            f" {NUM_SPLITS} rows, each an order of 1 to {len(people)}; of a subset made on purpose move the file away, and splits are drawn"
        )
    order = [people[place - 1] for place in table[split].tolist()]
    half = len(order) // 2
    return Split(train=sorted(order[half:]), test=sorted(order[:half]), origin=path.name)
