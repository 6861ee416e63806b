"""Reading tracklets by extent: the same bytes as tarfile reads, damage named, many threads, few open files."""

from __future__ import annotations

import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from taudl_dist.dataset import TrackletReader, open_dataset
from taudl_dist.dataset.tar import parse_members
from taudl_dist.errors import UserError


def num_open_files() -> int:
    import psutil

    return psutil.Process().num_fds()


def extents(dataset):
    index = dataset.training
    return list(zip(index.shard.tolist(), index.offset.tolist(), index.length.tolist()))


def test_the_same_as_tarfile(dataset_path):
    """Every member of every tar, in order, and nothing but them."""
    from taudl_dist.dataset import read_manifest

    dataset = open_dataset(dataset_path)
    reader = TrackletReader(dataset)
    rows = read_manifest(dataset, splits=("train", "query", "gallery")).to_pylist()
    ours = {(r["shard"], r["offset"]): reader.read_sample(r["shard"], r["offset"], r["length"]) for r in rows}
    theirs = []
    for name in dataset.shards:
        with tarfile.open(dataset_path / "shards" / name) as tar:
            theirs += [(member.name, tar.extractfile(member).read()) for member in tar]
    mine = []
    for _, sample in sorted(ours.items()):
        mine += [(f"{sample.key}.{frame:09d}.jpg", jpeg) for frame, jpeg in zip(sample.frames, sample.jpegs)]
        mine.append((f"{sample.key}.json", json.dumps(sample.meta, sort_keys=True, separators=(",", ":")).encode()))
    assert mine == theirs


def test_many_threads_and_one_open_file(dataset_path):
    dataset = open_dataset(dataset_path)
    wanted = [TrackletReader(dataset).read(*extent) for extent in extents(dataset)]
    reader = TrackletReader(dataset, max_open=1)
    before = num_open_files()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader.read(*extents(dataset)[i % len(wanted)]), range(400)))
    assert found == [wanted[i % len(wanted)] for i in range(400)]
    assert num_open_files() <= before + 1


@pytest.mark.parametrize(
    ("shard", "shift", "longer", "message"),
    [
        (99, 0, 0, "shard number 99, but there are"),
        (-1, 0, 0, "shard number -1"),
        (None, -(10**6), 0, "do not lie inside the file"),
        (None, 10**15, 0, "do not lie inside the file"),
        (None, 0, 10**12, "do not lie inside the file"),
        (None, 0, -(10**6), "do not lie inside the file"),
        (None, 512, 0, "broken tar header|not a whole tracklet"),
        (None, 7, -7, "broken tar header"),
        (None, 0, -512, "not a whole tracklet"),
        (None, 0, -1024, "not a whole tracklet: 2 images and 0 other members"),
    ],
)
def test_an_extent_that_is_no_tracklet(dataset_path, shard, shift, longer, message):
    dataset = open_dataset(dataset_path)
    true_shard, offset, length = extents(dataset)[0]
    with pytest.raises(UserError, match=message):
        TrackletReader(dataset).read(true_shard if shard is None else shard, offset + shift, length + longer)


@pytest.mark.parametrize("position", [0, 130, 150, 260])
def test_a_damaged_header_names_shard_and_offset(dataset_path, position):
    dataset = open_dataset(dataset_path)
    shard, offset, length = extents(dataset)[0]
    path = dataset.shard_path(shard)
    content = bytearray(path.read_bytes())
    content[offset + position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}, offset {offset}: .*broken tar header.*taudl validate"):
        TrackletReader(dataset).read(shard, offset, length)


def test_a_shard_that_is_cut_off_or_missing(dataset_path):
    dataset = open_dataset(dataset_path)
    extent = extents(dataset)[0]
    path = dataset.shard_path(extent[0])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"1000 bytes, but dataset\.json says"):
        TrackletReader(dataset).read(*extent)
    path.unlink()
    with pytest.raises(UserError, match="shard is missing"):
        TrackletReader(dataset).read(*extent)


@pytest.mark.parametrize("data", [b"x", b"\0" * 512, b"x" * 1024])
def test_bytes_that_are_no_tar(data):
    with pytest.raises(UserError, match="here: not a whole tracklet: a broken tar header"):
        parse_members(data, "here")


@pytest.mark.parametrize("size", [b"-0000001000\0", b"zzzzzzzzzzz\0", b"\0" * 12])
def test_a_header_whose_size_is_no_number(dataset_path, size):
    """The checksum holds, so somebody meant it; a negative size must not read for ever."""
    dataset = open_dataset(dataset_path)
    header = bytearray(dataset.shard_path(0).read_bytes()[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(UserError, match="broken tar header"):
        parse_members(bytes(header), "a.tar")


def test_a_description_that_is_no_mapping_and_a_pipe(dataset_path):
    dataset = open_dataset(dataset_path)
    extent = extents(dataset)[0]
    path = dataset.shard_path(extent[0])
    content = path.read_bytes()
    begin = content.index(b'{"camera"', extent[1])
    end = content.index(b"\0", begin)
    path.write_bytes(content[:begin] + b"[1]".ljust(end - begin) + content[end:])
    with pytest.raises(UserError, match="do not form one tracklet"):
        TrackletReader(dataset).read_sample(*extent)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="shard is missing"):
        TrackletReader(dataset).read(*extent)
