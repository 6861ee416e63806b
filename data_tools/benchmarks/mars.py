"""MARS as a dataset (Zheng et al., ECCV 2016): tracklets given by the tables of its evaluation code.

Simulated SSTT (Sect. 4): of the many tracklets of a person in a camera one is drawn at random. With an identity duplication of
d (Table 6), a share d of each camera's people have a second one, drawn without replacement, under a label of its own; a larger d
adds to the draws of a smaller. The rows drawn stand in dataset.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_tools.benchmarks.counts import MARS, MARS_GALLERY, Counts, check_counts
from data_tools.benchmarks.draws import first_identities, shuffled
from data_tools.benchmarks.folders import image_files, inside
from data_tools.benchmarks.images import Frames
from data_tools.benchmarks.mars_tables import (
    CAMERA,
    CAMERAS,
    END,
    PERSON,
    START,
    Gallery,
    count,
    gallery_rows,
    read_names,
    read_tables,
)
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.errors import UsageError, UserError

TRAIN, TEST, INFO = "bbox_train", "bbox_test", "info"


def import_benchmark(
    root: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    duplication: float = 0.0,
    gallery: Gallery = "without-queries",
    identities: int = 0,
    allow_mismatch: bool = False,
) -> Counts:
    """Writes the dataset of a copy of MARS and returns its counts.

    Args:
        root: the folder that holds bbox_train, bbox_test and info, or its parent.
        seed: draws the training tracklets.
        duplication: share of each camera's training identities that have two tracklets and so two labels, 0 to 0.5.
        gallery: the other test tracklets without junk, as most re-identification code has it; or all of them with the queries
            and junk, as the benchmark's own evaluation has it.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, tables, names and files do not fit together, or an image is unreadable.
    """
    if not 0 <= duplication <= 0.5:
        raise UsageError(
            f"--duplication {duplication}: expected a share of the identities from 0 to 0.5, such as 0.1 for 10 %"
        )
    root = inside(root, "MARS", "mars", "MARS-v160809", holding=TRAIN)
    train, test, queries = read_tables(root / INFO)
    counts = count(train, test, queries, gallery=gallery)
    mismatches = check_counts("MARS", counts, {**MARS, **MARS_GALLERY[gallery]}, allow_mismatch=allow_mismatch)
    people = first_identities(train[:, PERSON].tolist(), identities)
    rows = draw(train, people, seed=seed, duplication=duplication)
    train_names = read_names(root / INFO / "train_name.txt", train)
    test_names = read_names(root / INFO / "test_name.txt", test)
    tracklets = [
        *training_tracklets(root / TRAIN, train, rows, train_names),
        *probe_tracklets(root / TEST, test, queries, test_names, gallery=gallery),
    ]
    write_dataset(
        out,
        tracklets,
        settings={
            "benchmark": "mars",
            "sstt": "one random tracklet per identity and camera",
            "seed": seed,
            "duplication": duplication,
            "gallery": gallery,
            "identities": identities,
        },
        source={"name": "MARS", "counts": counts, "mismatches": mismatches, "training rows": [row + 1 for row in rows]},
    )
    return counts


def draw(train: np.ndarray, people: Iterable[int], *, seed: int, duplication: float = 0.0) -> list[int]:
    """Rows of the training table, from 0, to learn from: per person and camera one, or two; in order of both, then of drawing.

    Raises:
        UserError: a camera has too few people with a second tracklet.
    """
    kept = set(people)
    rows: dict[tuple[int, int], list[int]] = {}
    for row, (person, camera) in enumerate(train[:, [PERSON, CAMERA]].tolist()):
        if person in kept:
            rows.setdefault((person, camera), []).append(row)
    orders = {
        (person, camera): shuffled(of_pair, seed=seed, purpose=f"tracklets of {person} in {camera}")
        for (person, camera), of_pair in rows.items()
    }
    twice = set()
    for camera in CAMERAS:
        twice |= {(person, camera) for person in duplicated(orders, camera, seed=seed, duplication=duplication)}
    return [row for pair in sorted(orders) for row in orders[pair][: 2 if pair in twice else 1]]


def duplicated(tracklets: dict[tuple[int, int], list[int]], camera: int, *, seed: int, duplication: float) -> list[int]:
    """The people who have two labels in a camera, of those with more than one tracklet there by (person, camera)."""
    here = {person: rows for (person, at), rows in tracklets.items() if at == camera}
    number = round(duplication * len(here))
    able = [person for person, rows in here.items() if len(rows) > 1]
    if number > len(able):
        raise UserError(
            f"--duplication {duplication}: camera {camera} has {len(here)} identities, and {len(able)} of them more than one"
            f" tracklet, where {number} are needed; take a smaller share"
        )
    return shuffled(able, seed=seed, purpose=f"duplicates in {camera}")[:number]


def training_tracklets(
    folder: Path, table: np.ndarray, rows: Sequence[int], names: Sequence[str]
) -> Iterator[ImportTracklet]:
    """The tracklets drawn; the second of a person in a camera is named so."""
    seen = set()
    for row, frames in zip(rows, present_files(folder, table, rows, names)):
        person, camera = table[row, [PERSON, CAMERA]].tolist()
        name = f"{person:04d}" + ("-2" if (person, camera) in seen else "")
        seen.add((person, camera))
        yield _tracklet(frames, camera=camera, split="train", name=name, person=person)


def probe_tracklets(
    folder: Path, table: np.ndarray, queries: np.ndarray, names: Sequence[str], *, gallery: Gallery
) -> Iterator[ImportTracklet]:
    """Queries and gallery; a tracklet that is both is stored once."""
    is_query, is_gallery = set(queries.tolist()), set(gallery_rows(table, queries, gallery=gallery).tolist())
    rows = sorted(is_query | is_gallery)
    for row, frames in zip(rows, present_files(folder, table, rows, names)):
        split = "gallery" if row not in is_query else "both" if row in is_gallery else "query"
        person, camera = table[row, [PERSON, CAMERA]].tolist()
        yield _tracklet(frames, camera=camera, split=split, name=f"row {row + 1}", person=person)


def _tracklet(frames: Frames, *, camera: int, split: str, name: str, person: int) -> ImportTracklet:
    return ImportTracklet(
        camera=f"cam{camera}",
        split=split,
        name=name,
        frames=frames,
        person_id=person,
        source=f"{frames.folder.parent.name}/{frames.names[0]}",
    )


def present_files(folder: Path, table: np.ndarray, rows: Sequence[int], names: Sequence[str]) -> Iterator[Frames]:
    """The image files of each row.

    Raises:
        UserError: one is missing.
    """
    person, there = "", set[str]()
    for row in rows:
        of_row = names[table[row, START] - 1 : table[row, END]]
        if of_row[0][:4] != person:
            person = of_row[0][:4]
            there = {path.name for path in image_files(folder / person)}
        if missing := [name for name in of_row if name not in there]:
            raise UserError(
                f"{folder / person / missing[0]}: no such image ({len(missing)} of {len(of_row)} of its tracklet are missing);"
                " the copy is incomplete, unpack it again"
            )
        yield Frames(folder / person, of_row)
