"""Miniature copies of benchmarks: small images, each of a colour of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


def colour(number: int) -> tuple[int, int, int]:
    """Colours far enough apart to tell after JPEG."""
    return (number * 10 % 256, number * 40 % 256, 128)


@pytest.fixture
def draw() -> Callable[..., None]:
    """Writes images of the given names into a folder, numbered on over all calls, and a file that is none."""
    drawn = 0

    def write(folder: Path, *names: str) -> None:
        nonlocal drawn
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Thumbs.db").write_bytes(b"not an image")
        for name in names:
            drawn += 1
            Image.new("RGB", (8, 16), colour(drawn)).save(folder / name)

    return write


@pytest.fixture
def rows() -> Callable[..., list[tuple]]:
    """The manifest rows of a split as (camera, person, images), in order of camera and label, or as a sorted list."""
    from taudl_dist.dataset import read_manifest

    def read(dataset, split: str) -> list[tuple]:
        found = read_manifest(dataset, splits=(split,)).to_pydict()
        listed = list(zip(found["camera"], found["person_id"], found["num_frames"]))
        return listed if split == "train" else sorted(listed)

    return read
