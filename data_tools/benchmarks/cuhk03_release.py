"""cuhk-03.mat of the CUHK03 release: images in cells of MATLAB 7.3 (HDF5), which h5py reads where they lie.

There are five pairs of cameras. Of each person a pair holds up to ten images, the first five of view 1, the rest of view 2;
`1_002_2_07.png`, the name that the lists of the new protocol use, is image 7 (view 2) of person 2 of pair 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.benchmarks.images import encode
from data_tools.benchmarks.pictures import Picture
from taudl_dist.errors import UserError

FILE = "cuhk-03.mat"
_IMAGES_PER_PERSON = 10


class Release:
    """The images of one kind of boxes (detected or labeled, as the file spells it), by name. A context manager.

    Raises:
        UserError: the file, or a part of it, is not what it should be; in every method.
    """

    def __init__(self, path: Path, boxes: str) -> None:
        import h5py

        self.path = path
        self.boxes = boxes
        with self._reading():
            self._file = h5py.File(path, "r")
            self._images = dict(self._find_images())

    def __enter__(self) -> Release:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of all images there are, in order of pair, person, view."""
        return list(self._images)

    def picture(self, name: str, person: int) -> Picture:
        """An image under the number that a protocol gives its person."""
        if name not in self._images:
            raise UserError(
                f"{self.path}: holds no {self.boxes} image {name}, which the protocol lists; get both again"
            )
        view = int(name.split("_")[2])
        return Picture(person, view, name, f"{FILE}/{self.boxes}/{name}", partial(self.jpeg, name))

    def jpeg(self, name: str) -> bytes:
        """Reads and encodes an image."""
        with self._reading():
            pixels = self._file[self._images[name]][()].T  # MATLAB's columns come first: (3, width, height)
        return encode(np.ascontiguousarray(pixels, np.uint8))

    def test_people(self, split: int) -> set[tuple[int, int]]:
        """(pair, person) from 1 of those whom a classic split tests on."""
        with self._reading():
            references = self._file["testsets"][()].ravel()
            rows = self._file[references[split]][()].T
            return {(int(pair), int(person)) for pair, person in rows}

    def _find_images(self) -> Iterator[tuple[str, Any]]:
        for pair, reference in enumerate(self._file[self.boxes][()].ravel(), start=1):
            people = self._file[reference][()].T
            if people.ndim != 2 or people.shape[1] != _IMAGES_PER_PERSON:
                raise ValueError(f"cells of pair {pair} have shape {people.shape}, not (people, {_IMAGES_PER_PERSON})")
            for person, images in enumerate(people, start=1):
                for number, image in enumerate(images, start=1):
                    if self._file[image].ndim == 3:  # an empty cell is a list of its sizes
                        view = 1 if number <= _IMAGES_PER_PERSON // 2 else 2
                        yield f"{pair}_{person:03d}_{view}_{number:02d}.png", image

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.path}: not a readable {FILE} of the CUHK03 release (MATLAB 7.3): {error}; get it again"
            ) from None
