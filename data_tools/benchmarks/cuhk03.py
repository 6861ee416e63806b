"""CUHK03 as a dataset (Li et al., CVPR 2014): two views, joined from five pairs of cameras; see `pictures` for what becomes a tracklet.

The new protocol (Zhong et al., CVPR 2017: 767 people to train on, 700 to test on) is read from the folders of CUHK03-NP, or from
cuhk-03.mat of the release with the lists of the protocol. The classic one (1,367 and 100, twenty splits) is in cuhk-03.mat alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_tools.benchmarks import cuhk03_release
from data_tools.benchmarks.counts import CUHK03, CUHK03_CLASSIC, Counts, check_counts
from data_tools.benchmarks.cuhk03_release import Release
from data_tools.benchmarks.folders import inside
from data_tools.benchmarks.images import encoder
from data_tools.benchmarks.matlab import read_tables
from data_tools.benchmarks.pictures import (
    QUERY,
    SSTT,
    TEST,
    TRAIN,
    Picture,
    count,
    probes,
    read_folder,
    training_tracklets,
)
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.errors import UsageError, UserError

Boxes = Literal["detected", "labelled"]
Protocol = Literal["new", "classic"]

VIEWS = (1, 2)
NUM_CLASSIC_SPLITS = 20

_WORD = {"detected": "detected", "labelled": "labeled"}
"""How the files spell it."""

_RELEASE_DIR = "cuhk03_release"
_NP_DIRS = ("cuhk03-np", "CUHK03-NP")
_NP_NAME = re.compile(r"(?P<person>\d{4})_c(?P<camera>[12])(_[^.]*)?\.(png|jpg)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Images to train on and to test on; in the classic protocol every test image is query and gallery."""

    train: list[Picture]
    query: list[Picture]
    gallery: list[Picture]
    origin: str


def import_benchmark(
    root: str | Path,
    out: str | Path,
    *,
    boxes: Boxes = "detected",
    protocol: Protocol = "new",
    split: int | None = None,
    identities: int = 0,
    allow_mismatch: bool = False,
) -> Counts:
    """Writes the dataset of a copy of CUHK03 and returns its counts.

    Args:
        root: the folder that holds detected and labeled of CUHK03-NP, or cuhk-03.mat, or its parent.
        boxes: people as a detector found them, or as marked by hand.
        protocol: new, or classic, where every test image is query and gallery (evaluation draws one of each person).
        split: number of the classic split, 0 to 19; None is 0.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, the layout is another, an image is unreadable, or a file name is not one of CUHK03.
        UsageError: no such split, or a split of the new protocol.
    """
    if split is not None and (protocol == "new" or not 0 <= split < NUM_CLASSIC_SPLITS):
        raise UsageError(f"--split {split}: expected one of 0 to {NUM_CLASSIC_SPLITS - 1}, and --protocol classic")
    expected = CUHK03[boxes] if protocol == "new" else CUHK03_CLASSIC[boxes]
    with ExitStack() as opened:
        parts = _read(Path(root), boxes, protocol, split or 0, opened)
        counts = _count(parts, protocol)
        mismatches = check_counts(f"CUHK03 ({boxes}, {protocol})", counts, expected, allow_mismatch=allow_mismatch)
        write_dataset(
            out,
            itertools.chain(training_tracklets(parts.train, identities=identities), _probes(parts, protocol)),
            settings={
                "benchmark": "cuhk03",
                "sstt": SSTT,
                "boxes": boxes,
                "protocol": protocol,
                "split": None if protocol == "new" else split or 0,
                "identities": identities,
            },
            source={"name": "CUHK03", "read from": parts.origin, "counts": counts, "mismatches": mismatches},
            encoder=encoder(),
        )
    return counts


def _read(root: Path, boxes: Boxes, protocol: Protocol, split: int, opened: ExitStack) -> Parts:
    """The images of the layout that is there; a release stays open until `opened` closes."""
    word = _WORD[boxes]
    has_release = any((folder / cuhk03_release.FILE).is_file() for folder in (root, root / _RELEASE_DIR))
    if protocol == "new" and not has_release:
        return _from_folders(root, word)
    folder = inside(root, _RELEASE_DIR, holding=cuhk03_release.FILE)
    release = opened.enter_context(Release(folder / cuhk03_release.FILE, word))
    return _by_lists(release, word) if protocol == "new" else _by_split(release, split)


def _from_folders(root: Path, word: str) -> Parts:
    folder = inside(root, *_NP_DIRS, holding=f"{word}/{TRAIN}") / word
    train, query, gallery = (
        read_folder(folder / part, _NP_NAME, benchmark="CUHK03-NP", example="0003_c1_21.png")
        for part in (TRAIN, QUERY, TEST)
    )
    return Parts(train=train, query=query, gallery=gallery, origin=f"CUHK03-NP/{word}")


def _by_lists(release: Release, word: str) -> Parts:
    """The new protocol: lists of images, of their people, and of the places (from 1) in these that make each part."""
    path = _lists_path(release.path.parent, f"cuhk03_new_protocol_config_{word}.mat")
    files, people, *places = read_tables(path, ["filelist", "labels", "train_idx", "query_idx", "gallery_idx"])
    try:
        names = [str(np.asarray(name).item()) for name in files.ravel()]
        persons = [int(person) for person in people.ravel()]
        parts = [[(names[int(place) - 1], persons[int(place) - 1]) for place in part.ravel()] for part in places]
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not the lists of the new protocol ({error}); get it again") from None
    train, query, gallery = (sorted(release.picture(name, person) for name, person in part) for part in parts)
    return Parts(train=train, query=query, gallery=gallery, origin=f"{cuhk03_release.FILE}, {path.name}")


def _lists_path(release: Path, name: str) -> Path:
    for folder in (release, release.parent):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{release / name}: no such file; the lists of the new protocol come apart from {cuhk03_release.FILE}, with the code"
        " person-re-ranking of their authors (evaluation/data/CUHK03): copy it there, or give a copy of CUHK03-NP"
    )


def _by_split(release: Release, split: int) -> Parts:
    """The classic protocol; people are numbered from 1 in order of (pair, person)."""
    test_people = release.test_people(split)
    keys = [(int(pair), int(person)) for pair, person, *_ in (name.split("_") for name in release.names)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    train: list[Picture] = []
    test: list[Picture] = []
    for name, key in zip(release.names, keys):
        (test if key in test_people else train).append(release.picture(name, numbers[key]))
    return Parts(train=sorted(train), query=sorted(test), gallery=sorted(test), origin=cuhk03_release.FILE)


def _count(parts: Parts, protocol: Protocol) -> Counts:
    if protocol == "new":
        return count(parts.train, parts.query, parts.gallery, cameras=VIEWS)
    return {
        "images": len(parts.train) + len(parts.query),
        "train identities": len({picture.person for picture in parts.train}),
        "test identities": len({picture.person for picture in parts.query}),
    }


def _probes(parts: Parts, protocol: Protocol) -> Iterator[ImportTracklet]:
    if protocol == "classic":
        return probes(parts.query, "both")
    return itertools.chain(probes(parts.query, "query"), probes(parts.gallery, "gallery"))
