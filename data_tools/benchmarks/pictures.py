"""What the image benchmarks share: single images of a person in a camera, in Market-1501's three folders.

Simulated SSTT (Sect. 4): all training images of one person in one camera are one tracklet. Every query and gallery image is a
tracklet of its own. Junk (-1) is counted and left out, distractors (0) stay in the gallery.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.benchmarks.counts import Counts
from data_tools.benchmarks.draws import first_identities
from data_tools.benchmarks.folders import image_files, parsed
from data_tools.benchmarks.images import image
from data_tools.shards import ImportTracklet
from taudl_dist.errors import UserError

TRAIN, QUERY, TEST = "bounding_box_train", "query", "bounding_box_test"
JUNK, DISTRACTOR = -1, 0
SSTT = "one tracklet per identity and camera"


@dataclass(frozen=True, slots=True, order=True)
class Picture:
    """One image; the order is that of person, camera and time. `source`: where it stands in the benchmark."""

    person: int
    camera: int
    name: str
    source: str = field(compare=False)
    jpeg: Callable[[], bytes] = field(compare=False)


def read_folder(folder: Path, pattern: re.Pattern[str], *, benchmark: str, example: str) -> list[Picture]:
    """The images of a folder, ordered; `pattern` names the groups person and camera.

    Raises:
        UserError: the folder is missing, a file name is not one of the benchmark, or an image is there twice.
    """
    paths = image_files(folder)
    stems = Counter(stem(path.name) for path in paths)
    if len(stems) < len(paths):
        twice = stems.most_common(1)[0][0]
        raise UserError(
            f"{folder}: image {twice} is there {stems[twice]} times under different endings; keep one of them"
        )
    names = parsed(paths, pattern, benchmark=benchmark, example=example)
    return sorted(
        Picture(int(match["person"]), int(match["camera"]), path.name, f"{folder.name}/{path.name}", image(path))
        for path, match in zip(paths, names)
    )


def stem(name: str) -> str:
    """A file's name without its ending, or endings: 0001_c1s1_001051_00.jpg.jpg."""
    return name.partition(".")[0]


def count(train: list[Picture], query: list[Picture], test: list[Picture], *, cameras: Sequence[int]) -> Counts:
    """The numbers a copy is known by."""
    people = [picture.person for picture in test if picture.person > DISTRACTOR]
    pairs = {(picture.person, picture.camera) for picture in train}
    return {
        **_count("train", train, cameras),
        "train identities": len({picture.person for picture in train}),
        "train tracklets per camera": per_camera((camera for _, camera in pairs), cameras),
        **_count("query", query, cameras),
        "query identities": len({picture.person for picture in query}),
        **_count("test", test, cameras),
        "test images of junk (-1)": sum(picture.person == JUNK for picture in test),
        "test images of distractors (0000)": sum(picture.person == DISTRACTOR for picture in test),
        "test images of people": len(people),
        "test identities": len(set(people)),
    }


def _count(part: str, pictures: list[Picture], cameras: Sequence[int]) -> Counts:
    return {
        f"{part} images": len(pictures),
        f"{part} images per camera": per_camera((picture.camera for picture in pictures), cameras),
    }


def per_camera(values: Iterable[int], cameras: Sequence[int]) -> list[int]:
    """How often each camera stands among the values."""
    found = Counter(values)
    return [found[camera] for camera in cameras]


def training_tracklets(train: list[Picture], *, identities: int = 0) -> list[ImportTracklet]:
    """One tracklet per identity and camera, its images numbered in time order.

    Args:
        train: ordered.
        identities: of the first so many people only; 0: of all.
    """
    kept = first_identities((picture.person for picture in train), identities)
    groups = itertools.groupby(train, key=lambda picture: (picture.person, picture.camera))
    return [_joined(list(pictures)) for (person, _), pictures in groups if person in kept]


def _joined(pictures: list[Picture]) -> ImportTracklet:
    first = pictures[0]
    return ImportTracklet(
        camera=f"cam{first.camera}",
        split="train",
        name=f"{first.person:04d}",
        frames=[(number, picture.jpeg) for number, picture in enumerate(pictures)],
        person_id=first.person,
        source=first.source.rpartition("/")[0],
    )


def probes(pictures: Iterable[Picture], split: str) -> Iterator[ImportTracklet]:
    """Images to test on, each a tracklet of one frame, without junk. `split`: query, gallery, or both."""
    for picture in pictures:
        if picture.person != JUNK:
            yield ImportTracklet(
                camera=f"cam{picture.camera}",
                split=split,
                name=stem(picture.name),
                frames=[(0, picture.jpeg)],
                person_id=picture.person,
                source=picture.source,
            )
