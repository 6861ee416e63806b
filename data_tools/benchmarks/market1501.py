"""Market-1501 as a dataset, with the paper's simulated SSTT: all training images of one person in one camera are a tracklet.

Every query and gallery image is a tracklet of its own. Junk (-1) is counted and left out, distractors (0) stay in the
gallery. JPEG files are copied byte for byte.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.benchmarks import inside
from data_tools.benchmarks.counts import MARKET1501, Counts, check_counts, per_camera
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.errors import UserError

TRAIN, QUERY, TEST = "bounding_box_train", "query", "bounding_box_test"
CAMERAS = range(1, 7)
JUNK, DISTRACTOR = -1, 0

_NAME = re.compile(
    r"(?P<person>-1|\d{4})_c(?P<camera>[1-6])s(?P<sequence>\d)_(?P<frame>\d{6})_(?P<box>\d{2})\.jpg(\.jpg)?"
)
"""24 names of the distribution do end in .jpg.jpg."""


@dataclass(frozen=True, slots=True, order=True)
class Picture:
    """One image file; the order is that of person, camera and time."""

    person: int
    camera: int
    name: str
    path: Path


def import_benchmark(root: str | Path, out: str | Path, *, identities: int = 0, allow_mismatch: bool = False) -> Counts:
    """Writes the dataset of a copy of Market-1501 and returns its counts.

    Args:
        root: the folder that holds bounding_box_train, query and bounding_box_test, or its parent.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, a folder is missing, or a file name is not one of Market-1501.
    """
    root = inside(root, "Market-1501-v15.09.15", holding=TRAIN)
    train, query, test = (read_folder(root / folder) for folder in (TRAIN, QUERY, TEST))
    counts = count(train, query, test)
    mismatches = check_counts("Market-1501", counts, MARKET1501, allow_mismatch=allow_mismatch)
    write_dataset(
        out,
        itertools.chain(training_tracklets(first_identities(train, identities)), probes(query, test)),
        settings={"benchmark": "market1501", "sstt": "one tracklet per identity and camera", "identities": identities},
        source={"name": "Market-1501-v15.09.15", "counts": counts, "mismatches": mismatches},
    )
    return counts


def read_folder(folder: Path) -> list[Picture]:
    """The images of a folder, ordered; other files than .jpg (Thumbs.db) are none of ours."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; Market-1501 has {TRAIN}, {QUERY} and {TEST}")
    pictures = []
    for path in folder.glob("*.jpg"):
        match = _NAME.fullmatch(path.name)
        if not match:
            raise UserError(
                f"{path}: the name is not one of Market-1501, such as 0002_c1s1_000451_03.jpg; move it away"
            )
        pictures.append(Picture(int(match["person"]), int(match["camera"]), path.name, path))
    return sorted(pictures)


def count(train: list[Picture], query: list[Picture], test: list[Picture]) -> Counts:
    """The numbers a copy is known by; see `counts.MARKET1501`."""
    cameras = list(CAMERAS)
    pairs = {(picture.person, picture.camera) for picture in train}
    people = [picture.person for picture in test if picture.person > DISTRACTOR]
    return {
        "train images": len(train),
        "train identities": len({picture.person for picture in train}),
        "train images per camera": per_camera(cameras, [picture.camera for picture in train]),
        "train tracklets per camera": per_camera(cameras, [camera for _, camera in pairs]),
        "query images": len(query),
        "query identities": len({picture.person for picture in query}),
        "query images per camera": per_camera(cameras, [picture.camera for picture in query]),
        "test images": len(test),
        "test images of junk (-1)": sum(picture.person == JUNK for picture in test),
        "test images of distractors (0000)": sum(picture.person == DISTRACTOR for picture in test),
        "test images of people": len(people),
        "test identities": len(set(people)),
    }


def first_identities(train: list[Picture], identities: int) -> list[Picture]:
    """The images of the first `identities` people in order of their number; 0: of all."""
    people = sorted({picture.person for picture in train})
    if not 0 <= identities <= len(people):
        raise UserError(f"--identities {identities}: this copy has {len(people)} training identities; 0 takes all")
    kept = set(people[:identities] if identities else people)
    return [picture for picture in train if picture.person in kept]


def training_tracklets(train: list[Picture]) -> Iterator[ImportTracklet]:
    """One tracklet per identity and camera, its images numbered in time order."""
    for (person, camera), pictures in itertools.groupby(train, key=lambda picture: (picture.person, picture.camera)):
        yield ImportTracklet(
            camera=f"cam{camera}",
            split="train",
            name=f"{person:04d}",
            frames=[(number, picture.path) for number, picture in enumerate(pictures)],
            person_id=person,
            source=TRAIN,
        )


def probes(query: list[Picture], test: list[Picture]) -> Iterator[ImportTracklet]:
    """Query and gallery images, each a tracklet of one frame, without junk."""
    for split, folder, pictures in (("query", QUERY, query), ("gallery", TEST, test)):
        for picture in pictures:
            if picture.person != JUNK:
                yield ImportTracklet(
                    camera=f"cam{picture.camera}",
                    split=split,
                    name=picture.name.split(".")[0],
                    frames=[(0, picture.path)],
                    person_id=picture.person,
                    source=f"{folder}/{picture.name}",
                )
