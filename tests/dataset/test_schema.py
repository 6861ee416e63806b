"""The digest is a function of what a dataset holds, not of how it is laid out in memory or on disk."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from taudl_dist.dataset import dataset_digest
from taudl_dist.dataset.schema import MANIFEST_SCHEMA, hash_table

ROW = {
    "camera": "cam1", "label": 0, "split": "train", "key": "cam1-00", "shard": 0, "offset": 0, "length": 2048,
    "num_frames": 1, "start_s": 0.5, "end_s": 1.5, "person_id": None,
}  # fmt: skip
SHARD = {"name": "cam1-train-00000.tar", "bytes": 10240, "sha256": "ab"}


def digest(rows, cameras=("cam1",), shards=(SHARD,), chunks=1):
    size = -(-len(rows) // chunks)
    parts = [pa.Table.from_pylist(rows[i : i + size], schema=MANIFEST_SCHEMA) for i in range(0, len(rows), size)]
    return dataset_digest(list(cameras), list(shards), pa.concat_tables(parts))


def test_chunks_do_not_matter():
    rows = [{**ROW, "label": i, "key": f"k{i}", "person_id": None if i % 2 else i} for i in range(7)]
    assert len({digest(rows, chunks=chunks) for chunks in (1, 2, 7)}) == 1


def test_the_digest_of_version_1_does_not_change():
    """Runs are compared by it; a change needs a new format version."""
    assert digest([ROW]) == "4a777b3cbc98d0efe488521fdb9ae1a2ca1ba90b6da03b545cff4a8b4f3a02f3"


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "cam2"}, {"label": 1}, {"split": "query"}, {"key": "cam1-01"}, {"shard": 1}, {"offset": 512},
        {"length": 4096}, {"num_frames": 2}, {"start_s": 0.25}, {"end_s": 2.0}, {"person_id": 0},
    ],
    ids=str,
)  # fmt: skip
def test_every_column_matters(change):
    assert digest([{**ROW, **change}]) != digest([ROW])


def test_names_and_sums_matter():
    base = digest([ROW])
    assert digest([ROW], cameras=("cam1", "cam2")) != base
    for field, value in (("name", "b.tar"), ("bytes", 1), ("sha256", "cd")):
        assert digest([ROW], shards=({**SHARD, field: value},)) != base
    assert digest([ROW], shards=({**SHARD, "host": "somewhere"},)) == base


def test_strings_cannot_slide_into_each_other():
    one = [{**ROW, "key": "ab"}, {**ROW, "key": "c"}]
    other = [{**ROW, "key": "a"}, {**ROW, "key": "bc"}]
    assert digest(one) != digest(other)


@pytest.mark.parametrize("values", [[], [""], ["a", "", "bc"], ["é", "日本", "x"] * 3])
def test_strings_hash_alike_however_they_lie_in_memory(values):
    """Against lengths and joined bytes, the obvious way; as one chunk, many, a slice, and with dictionary-free copies."""
    expected = hashlib.sha256(b"s\0")
    expected.update(np.array([len(value.encode()) for value in values], "<i8").tobytes() + "".join(values).encode())
    padded = pa.array(["zzz", *values, "yy"]).slice(1, len(values))
    for column in (
        pa.chunked_array([values], pa.string()),
        pa.chunked_array([[value] for value in values], pa.string()),
        pa.chunked_array([padded, padded.slice(0, 0)]),
    ):
        total = hashlib.sha256()
        hash_table(total, pa.table({"s": column}))
        assert total.hexdigest() == expected.hexdigest()
