"""A small dataset of generated JPEGs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest


def jpeg(value: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 16, 3), value % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def dataset_path(tmp_path) -> Path:
    """Two cameras of 3 training tracklets with 2, 3 and 4 images; one query, one gallery, one that is both."""
    return _write(tmp_path / "dataset")


@pytest.fixture(scope="package")
def unchanged_path(tmp_path_factory) -> Path:
    """The same, for tests that leave it alone."""
    return _write(tmp_path_factory.mktemp("unchanged") / "dataset")


def _write(folder: Path) -> Path:
    from data_tools.shards import ImportTracklet, write_dataset

    def tracklet(camera, split, number):
        frames = [(10 * at, jpeg(20 * number + at)) for at in range(2 + number)]
        return ImportTracklet(camera=camera, split=split, name=str(number), frames=frames, person_id=number + 1)

    tracklets = [tracklet(camera, "train", number) for camera in ("a", "b") for number in range(3)]
    tracklets += [tracklet("a", split, 0) for split in ("query", "gallery", "both")]
    return write_dataset(folder, tracklets, settings={}, source={}, images_per_shard=5)
