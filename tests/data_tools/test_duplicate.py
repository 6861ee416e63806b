"""Duplicated identities: the right number of cuts, the same images, a dataset that validates, nothing of query and gallery."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_tools.duplicate import chosen, duplicate
from data_tools.shards import ImportTracklet, write_dataset
from data_tools.validate import validate_dataset
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UserError

SIZES = {"cam1": 10, "cam2": 7}


def _jpeg(value: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 8, 3), value % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Tracklets of 2 to 5 images; the last of each camera has one."""
    tracklets = [
        ImportTracklet(
            camera=camera,
            split="train",
            name=str(number),
            frames=[(3 * i, _jpeg(50 * i + number)) for i in range(1 if number == size - 1 else 2 + number % 4)],
            person_id=number + 1,
        )
        for camera, size in SIZES.items()
        for number in range(size)
    ]
    tracklets.append(ImportTracklet(camera="cam1", split="both", name="q", frames=[(0, _jpeg(1))], person_id=99))
    folder = tmp_path_factory.mktemp("base") / "dataset"
    return open_dataset(write_dataset(folder, tracklets, settings={}, source={}))


def _images(dataset) -> Counter[tuple[str, int, str]]:
    """Camera, frame and checksum of every training image."""
    reader, found = TrackletReader(dataset), Counter()
    for row in read_manifest(dataset, splits=("train",)).to_pylist():
        sample = reader.read_sample(row["shard"], row["offset"], row["length"])
        found.update((row["camera"], f, hashlib.sha256(j).hexdigest()) for f, j in zip(sample.frames, sample.jpegs))
    return found


@pytest.mark.parametrize(("share", "cuts"), [(0.0, (0, 0)), (0.1, (1, 1)), (0.3, (3, 2)), (0.5, (5, 4))])
def test_a_share_of_each_camera_has_two_labels_and_the_images_stay(base, share: float, cuts, tmp_path: Path):
    out = open_dataset(duplicate(base, tmp_path / "copy", share=share))
    assert [camera["num_tracklets"] for camera in out.info["cameras"]] == [10 + cuts[0], 7 + cuts[1]]
    assert _images(out) == _images(base)
    assert validate_dataset(out.path).problems == []
    assert [out.info["splits"][split]["tracklets"] for split in ("query", "gallery")] == [0, 0]
    assert out.info["settings"]["derived from"] == base.digest
    assert out.digest != base.digest
    owners = Counter((row["camera"], row["person_id"]) for row in read_manifest(out, splits=("train",)).to_pylist())
    assert sorted(Counter(owners.values()).items()) == [(1, 17 - sum(cuts)), (2, sum(cuts))][: 1 + (sum(cuts) > 0)]


def test_the_halves_of_a_tracklet_are_its_first_and_its_last_frames(base, tmp_path: Path):
    out = open_dataset(duplicate(base, tmp_path / "copy", share=0.5))
    reader, halves = TrackletReader(out), {}
    for row in read_manifest(out, splits=("train",)).to_pylist():
        sample = reader.read_sample(row["shard"], row["offset"], row["length"])
        halves.setdefault(sample.meta["source"], []).append(sample.frames)
    cut = [sorted(parts) for parts in halves.values() if len(parts) == 2]
    assert len(cut) == 9
    for first, second in cut:
        assert first[-1] < second[0]
        assert len(second) - len(first) in (0, 1)


def test_cuts_are_a_function_of_the_seed_and_larger_shares_add_to_smaller(base):
    rows = read_manifest(base, splits=("train",)).to_pylist()
    shares = [chosen(rows, share=share, seed=0) for share in (0.1, 0.2, 0.3, 0.5)]
    assert all(small < large for small, large in itertools.pairwise(shares))
    assert chosen(rows, share=0.5, seed=0) == shares[-1]
    assert chosen(rows, share=0.5, seed=1) != shares[-1]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.95, "cam1 has 10 tracklets, 9 of them with more than one"),
        (1.5, "expected a share"),
        (-0.1, "expected a share"),
    ],
)
def test_what_cannot_be_is_refused(base, share: float, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        duplicate(base, tmp_path / "copy", share=share)
    assert not (tmp_path / "copy").exists()
