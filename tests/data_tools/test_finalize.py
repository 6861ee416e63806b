"""The last step against an obvious second way of it: rows in order, labels counted through, what is there twice refused."""

from __future__ import annotations

import random

import pytest

from data_tools.commits import FRAGMENTS_DIR
from data_tools.finalize import finalize
from data_tools.folder import LocalFolder
from data_tools.shard_writer import ShardTracklet, write_unit
from taudl_dist.dataset import open_dataset, read_manifest
from taudl_dist.dataset.schema import SHARDS_DIR

ABOUT = {"settings": {}, "encoder": {}, "source": {"plan": ""}}


def tracklet(camera: str, key: str, label: int, splits=("train",)) -> ShardTracklet:
    return ShardTracklet(
        key=key, camera=camera, splits=splits, label=label, person_id=None, start_s=0.0, end_s=1.0, meta={},
        images=[(number, b"\xff\xd8") for number in range(1 + label % 3)],
    )  # fmt: skip


def made(folder: LocalFolder, units: dict[str, list[ShardTracklet]], cameras: list[str]) -> str:
    folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
    for unit, tracklets in units.items():
        write_unit(folder, unit, tracklets, plan_digest="p")
    return finalize(folder, units=dict.fromkeys(units, "p"), cameras=cameras, about=ABOUT)


def test_order_and_labels(tmp_path):
    draw, cameras = random.Random(0), ["b", "a", "c", "d"]
    ones = [tracklet(camera, f"{camera}-{draw.random():.12f}", 7 * n) for camera in "abc" for n in range(20)]
    tests = [
        tracklet(camera, f"{camera}-t{n}", -1, ("query", "gallery")[: 1 + n % 2]) for camera in "ac" for n in range(5)
    ]
    draw.shuffle(ones)
    units = {f"u{number}": sorted(ones[number::4], key=lambda one: one.key) for number in range(4)} | {"t": tests}
    made(LocalFolder(tmp_path), units, cameras)
    expected = sorted(ones, key=lambda one: (cameras.index(one.camera), one.label))
    found = read_manifest(tmp_path, splits=("train",))
    assert found["key"].to_pylist() == [one.key for one in expected]
    assert found["label"].to_pylist() == [*range(20)] * 3
    rows = read_manifest(tmp_path).to_pylist()
    pairs = [(split, cameras.index(one.camera), one.key) for one in tests for split in one.splits]
    ranked = sorted(pairs, key=lambda pair: (pair[0] != "query", *pair[1:]))
    assert [(row["split"], cameras.index(row["camera"]), row["key"]) for row in rows] == ranked
    dataset = open_dataset(tmp_path)
    assert dataset.cameras == ["b", "a", "c"]
    assert dataset.training.num_frames.tolist() == [1 + one.label % 3 for one in expected]
    assert dataset.info["splits"]["train"]["frames"] == sum(1 + one.label % 3 for one in ones)


TWICE = [
    ("keys twice", [tracklet("a", "x", 0)], [tracklet("a", "x", 1)]),
    ("labels twice", [tracklet("a", "x", 0)], [tracklet("a", "y", 0)]),
    (None, [tracklet("a", "x", 0)], [tracklet("b", "y", 0)]),
    (None, [tracklet("a", "x", 0)], [tracklet("a", "y", -1, ("query", "gallery"))]),
]


@pytest.mark.parametrize(("message", "one", "other"), TWICE)
def test_what_is_there_twice(tmp_path, message, one, other):
    if message is None:
        made(LocalFolder(tmp_path), {"u": one, "v": other}, ["a", "b"])
        return
    with pytest.raises(AssertionError, match=message):
        made(LocalFolder(tmp_path), {"u": one, "v": other}, ["a", "b"])
    assert not (tmp_path / "dataset.json").exists()


def test_the_digest_does_not_depend_on_the_order_of_the_writing(tmp_path):
    units = {f"u{n}": [tracklet("a", f"k{n}", n)] for n in range(5)}
    digests = {made(LocalFolder(tmp_path / str(turn)), dict(units), ["a"]) for turn in range(2)}
    assert len(digests) == 1
