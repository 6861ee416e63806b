"""Opening datasets: what is refused and why, and the cost of a large one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taudl_dist.dataset import open_dataset, read_manifest
from taudl_dist.dataset.index import write_index
from taudl_dist.dataset.schema import FORMAT, INDEX_SCHEMA, VERSION
from taudl_dist.errors import UserError


def change(path, **fields):
    file = path / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_an_opened_dataset(dataset_path):
    dataset = open_dataset(dataset_path)
    assert dataset.cameras == ["a", "b"]
    index = dataset.training
    assert len(index) == 6 and index.camera_offsets.tolist() == [0, 3, 6]
    assert index.label.tolist() == [0, 1, 2, 0, 1, 2] and index.num_frames.tolist() == [2, 3, 4] * 2
    assert not index.offset.flags.owndata and not index.offset.flags.writeable  # a view of the mapped file
    assert not hasattr(index, "person_id") and "person_id" not in INDEX_SCHEMA.names


def test_manifest_by_split(dataset_path):
    assert read_manifest(dataset_path)["split"].to_pylist() == ["query", "query", "gallery", "gallery"]
    train = read_manifest(open_dataset(dataset_path), splits=["train"])
    assert train["label"].to_pylist() == [0, 1, 2, 0, 1, 2] and train["camera"].to_pylist() == list("aaabbb")


def test_a_tracklet_that_is_query_and_gallery_is_stored_once(dataset_path):
    rows = read_manifest(dataset_path).to_pylist()
    extents = [(row["key"], row["shard"], row["offset"]) for row in rows]
    assert len(extents) == 4 and len(set(extents)) == 3


SPOILED = [
    # field, value, message
    ("format", "other", "no field format='taudl-dataset'"),
    ("version", 2, "format version 2, but this taudl reads version 1"),
    ("version", None, "format version None"),
    ("digest", 7, "wrong type"),
    ("cameras", [{"name": "a", "num_tracklets": "3"}], "wrong type"),
    ("cameras", [{"name": "a", "num_tracklets": -3}], "wrong type"),
    ("cameras", [{"name": "a", "num_tracklets": 10**30}], "wrong type"),
    ("cameras", [{"name": "\ud800", "num_tracklets": 6}], "surrogates"),
    ("cameras", [{"name": "a"}], "'num_tracklets'"),
    ("cameras", [{"name": "a", "num_tracklets": 3}] * 2, "twice"),
    ("cameras", [{"name": "a", "num_tracklets": 7}], "count different tracklets"),
    ("cameras", 5, "wrong type"),
    ("shards", [{"name": "../x.tar", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": "/etc/x.tar", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": "a/x.tar", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": "..\\x.tar", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": "..", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": "pipe:rm.tar", "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("shards", [{"name": None, "bytes": 1, "sha256": ""}], "not a plain file name"),
    ("splits", {}, "'train'"),
]


@pytest.mark.parametrize(("field", "value", "message"), SPOILED)
def test_a_spoiled_dataset_file(dataset_path, field, value, message):
    change(dataset_path, **{field: value})
    with pytest.raises(UserError, match=message):
        open_dataset(dataset_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", "[" * 100_000])
def test_a_dataset_file_that_is_no_json(dataset_path, content):
    (dataset_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json"):
        open_dataset(dataset_path)


@pytest.mark.parametrize("name", ["tracklets.arrow", "tracklets.parquet"])
@pytest.mark.parametrize("keep", [None, 0, 10, 0.5])
def test_a_missing_or_cut_file(dataset_path, name, keep):
    path = dataset_path / name
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        (open_dataset if name.endswith("arrow") else read_manifest)(dataset_path)


def test_an_index_of_another_dataset(dataset_path):
    write_index(dataset_path / "tracklets.arrow", {name: np.zeros(5, np.int64) for name in INDEX_SCHEMA.names})
    with pytest.raises(UserError, match=r"5 rows, but dataset\.json counts 6 training tracklets"):
        open_dataset(dataset_path)


def test_no_dataset(tmp_path):
    with pytest.raises(UserError, match="no such dataset folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no dataset\.json in it"):
        open_dataset(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        open_dataset(tmp_path)


@pytest.mark.slow
def test_ten_million_tracklets_open_at_once_in_little_memory(tmp_path):
    """The budget of the format: under 1 s and 300 MB, imports included in the memory; in CPU time, in a process of its own."""
    rows, cameras = 10_000_000, 5_000
    zeros = {field.name: np.zeros(rows, field.type.to_pandas_dtype()) for field in INDEX_SCHEMA}
    write_index(tmp_path / "tracklets.arrow", zeros)
    each = [{"name": f"cam{c}", "num_tracklets": rows // cameras, "num_frames": 0} for c in range(cameras)]
    splits = {"train": {"tracklets": rows}, "query": {"tracklets": 0}, "gallery": {"tracklets": 0}}
    info = {"format": FORMAT, "version": VERSION, "digest": "0", "cameras": each, "splits": splits, "shards": []}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    script = textwrap.dedent(f"""
        import time
        import psutil
        from taudl_dist.dataset import open_dataset
        start = time.process_time()
        dataset = open_dataset({str(tmp_path)!r})
        elapsed = time.process_time() - start
        assert len(dataset.training) == {rows} and int(dataset.training.label[-1]) == 0
        print(elapsed, psutil.Process().memory_info().rss / 2**20)
    """)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    elapsed_s, resident_mb = map(float, out.split())
    assert elapsed_s < 1 and resident_mb < 300


@pytest.mark.parametrize(("column", "value"), [("start_s", np.nan), ("end_s", np.inf), ("num_frames", 0)])
def test_a_manifest_with_impossible_values(dataset_path, column, value):
    path = dataset_path / "tracklets.parquet"
    table = pq.read_table(path)
    values = pa.array([*table[column].to_pylist()[:-1], value], table.schema.field(column).type)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(column), values), path)
    with pytest.raises(UserError, match="without a finite time or without images"):
        read_manifest(dataset_path)
