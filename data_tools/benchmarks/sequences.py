"""What the two-camera video benchmarks share: a folder of frames for each person in each camera, and ten splits into halves.

A person's frames in a camera are one tracklet (simulated SSTT, Sect. 4: there is only one). The first camera's test tracklets
are the queries, the second camera's the gallery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.benchmarks.counts import Counts, check_counts
from data_tools.benchmarks.draws import first_identities, shuffled
from data_tools.benchmarks.folders import image_files, parsed
from data_tools.benchmarks.images import Frames, encoder
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.errors import UsageError, UserError

NUM_SPLITS = 10
SSTT = "the one tracklet of each identity and camera"

Sequences = Mapping[int, list[Path]]
"""Person -> the frames in time order, of one camera."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """People to train on and people to test on, ascending. `origin`: the file it was read from, or how it was drawn."""

    train: list[int]
    test: list[int]
    origin: str


def read_sequences(
    folder: Path, *, person: re.Pattern[str], frame: re.Pattern[str], benchmark: str, example: str
) -> Sequences:
    """The frames of every person folder in a camera's folder.

    Args:
        person: takes a folder's name apart, with a group person.
        frame: takes a file's name apart; where it has a group person, this must be the folder's.
        example: path of a file from the camera's folder on, for messages.

    Raises:
        UserError: the folder is missing, a folder or file has another name, or a person has no frames or two folders.
    """
    sequences: dict[int, list[Path]] = {}
    for path in _folders(folder):
        match = person.fullmatch(path.name)
        if not match or int(match["person"]) in sequences:
            problem = "the name is not one of" if not match else "a second folder for a person of"
            raise UserError(f"{path}: {problem} {benchmark}, such as {example}; move it away")
        frames = image_files(path)
        for file, name in zip(frames, parsed(frames, frame, benchmark=benchmark, example=example)):
            if name.groupdict().get("person", match["person"]) != match["person"]:
                raise UserError(
                    f"{file}: a frame of another person than its folder's; the copy is damaged, unpack it again"
                )
        if not frames:
            raise UserError(f"{path}: holds no images; the copy is incomplete, unpack it again")
        sequences[int(match["person"])] = frames
    return sequences


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); the copy is not of the official layout"
        ) from None


def check_split_number(split: int) -> None:
    """Refuses a split that does not exist."""
    if not 0 <= split < NUM_SPLITS:
        raise UsageError(f"--split {split}: expected one of 0 to {NUM_SPLITS - 1}")


def find_split(
    places: Sequence[Path],
    read: Callable[[Path, list[int], int], Split],
    people: list[int],
    split: int,
    *,
    seed: int | None,
) -> Split:
    """The split as `read` finds it in the first of `places` that is there, else drawn with the seed (None: 0).

    Raises:
        UsageError: a seed, which would have no effect.
    """
    for path in places:
        if path.is_file():
            if seed is not None:
                raise UsageError(f"--seed {seed}: has no effect, the splits are those of {path}; leave it out")
            return read(path, people, split)
    return drawn_split(people, split, seed=seed or 0)


def drawn_split(people: Sequence[int], split: int, *, seed: int) -> Split:
    """Halves drawn at random, a function of (people, split, seed): for a copy without its file of splits."""
    order = shuffled(people, seed=seed, purpose=f"split {split}")
    half = len(order) // 2
    return Split(train=sorted(order[:half]), test=sorted(order[half:]), origin=f"drawn with seed {seed}")


def write_split(
    out: str | Path,
    cameras: Mapping[str, Sequences],
    split: Split,
    *,
    number: int,
    benchmark: str,
    name: str,
    title: str,
    published: Counts,
    identities: int,
    allow_mismatch: bool,
) -> Counts:
    """Checks the counts of a copy, writes the dataset of one split, and returns the counts.

    Args:
        number: of the split, 0 to 9.
        benchmark, name, title: what it is called in the settings, in messages, and in the source of dataset.json.
        published: what a complete copy counts.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy with other counts.

    Raises:
        UserError: counts differ, or an image is unreadable.
    """
    counts = count(cameras, split)
    mismatches = check_counts(name, counts, published, allow_mismatch=allow_mismatch)
    write_dataset(
        out,
        tracklets(cameras, split, identities=identities),
        settings=settings(benchmark, number, split.origin, identities),
        source={"name": title, "counts": counts, "mismatches": mismatches, "train": split.train, "test": split.test},
        encoder=encoder(),
    )
    return counts


def count(cameras: Mapping[str, Sequences], split: Split) -> Counts:
    """The numbers a copy is known by."""
    lengths = [len(frames) for sequences in cameras.values() for frames in sequences.values()]
    return {
        "identities": len(set().union(*cameras.values())),
        "tracklets": len(lengths),
        "images": sum(lengths),
        "shortest tracklet": min(lengths, default=0),
        "longest tracklet": max(lengths, default=0),
        "train identities": len(split.train),
        "test identities": len(split.test),
    }


def tracklets(cameras: Mapping[str, Sequences], split: Split, *, identities: int = 0) -> list[ImportTracklet]:
    """All tracklets of a split: those to train on, then queries of the first camera and gallery of the second.

    Args:
        identities: train on the first so many people only; 0: on all.
    """
    people = sorted(first_identities(split.train, identities))
    training = [
        _tracklet(camera, "train", person, found[person]) for camera, found in cameras.items() for person in people
    ]
    probes = [
        _tracklet(camera, part, person, cameras[camera][person])
        for camera, part in zip(cameras, ("query", "gallery"))
        for person in split.test
    ]
    return training + probes


def _tracklet(camera: str, part: str, person: int, frames: list[Path]) -> ImportTracklet:
    return ImportTracklet(
        camera=camera,
        split=part,
        name=f"{person:04d}",
        frames=Frames(frames[0].parent, [path.name for path in frames]),
        person_id=person,
        source=f"{camera}/{frames[0].parent.name}",
    )


def settings(benchmark: str, split: int, origin: str, identities: int) -> Mapping[str, str | int]:
    """What dataset.json says about how the dataset was made."""
    return {"benchmark": benchmark, "sstt": SSTT, "split": split, "splits": origin, "identities": identities}
