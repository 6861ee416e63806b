"""The last step of making a dataset: fragments become one manifest, one training index, one digest; dataset.json comes last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.commits import FRAGMENTS_DIR, OK, Commit, read_commits, remove_losers
from data_tools.folder import Folder, write_json
from taudl_dist.dataset.index import write_index
from taudl_dist.dataset.schema import (
    DATASET_FILE,
    FORMAT,
    INDEX_FILE,
    INDEX_SCHEMA,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    SHARDS_DIR,
    SPLITS,
    VERSION,
    dataset_digest,
)
from taudl_dist.errors import UserError


def finalize(
    folder: Folder,
    *,
    units: Mapping[str, str],
    cameras: list[str],
    about: dict[str, Any],
    commits: Mapping[str, Commit] | None = None,
) -> str:
    """Merges committed units, in the order given, into a finished dataset and returns its digest.

    Until the last file stands the folder is no dataset, whatever it was before.

    Args:
        units: the digest of each unit's plan by its name.
        cameras: all that may have tracklets; those without any are left out.
        about: what dataset.json also says: settings, encoder, source. Not part of the digest.
        commits: the commits of the units, where they have been read already.

    Raises:
        UserError: a unit that is not committed, or fragments that do not fit together.
    """
    if commits is None:
        commits = read_commits(folder, units)
    shards, columns = _merge(folder, units, commits)
    present = set(columns["camera"].unique().to_pylist())
    assert present <= set(cameras), present - set(cameras)
    cameras = [camera for camera in cameras if camera in present]
    manifest = _sorted(columns, cameras)
    _check(manifest)
    manifest = _counted_through(manifest, cameras)
    digest = dataset_digest(cameras, shards, manifest)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "digest": digest,
        "cameras": _camera_counts(manifest, cameras),
        "splits": {split: _counts(manifest, split) for split in SPLITS},
        "shards": shards,
        **about,
    }
    folder.remove([DATASET_FILE])
    with folder.whole_file(MANIFEST_FILE) as temporary:
        pq.write_table(manifest, temporary)
    training = _part(manifest, "train")
    with folder.whole_file(INDEX_FILE) as temporary:
        write_index(temporary, {name: training[name].to_numpy() for name in INDEX_SCHEMA.names})
    folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
    write_json(folder, DATASET_FILE, info)
    remove_losers(folder, commits.values())
    return digest


def _merge(
    folder: Folder, units: Mapping[str, str], commits: Mapping[str, Commit]
) -> tuple[list[dict[str, Any]], dict[str, pa.ChunkedArray]]:
    """The shards' entries in dataset.json, and the columns of the manifest in the order of the units."""
    missing = next((unit for unit in units if unit not in commits), None)
    if missing:
        raise UserError(f"{folder}: unit {missing} is not complete; run the same command again to go on")
    shards: list[dict[str, Any]] = []
    tables = [MANIFEST_SCHEMA.empty_table()]
    done = [commits[unit] for unit in units]
    for commit, content in zip(done, folder.map(lambda commit: folder.read(commit.fragment), done)):
        rows = _fragment(content)
        if rows is None or rows.num_rows != commit.rows:
            found = "is damaged" if rows is None else f"has {rows.num_rows} rows, its {OK} says {commit.rows}"
            raise UserError(
                f"{folder}: {commit.fragment} {found}; delete {SHARDS_DIR}/{commit.stem}{OK} and run the same command again"
            )
        if not commit.shard:  # all of it was dropped
            continue
        shard = pa.array(np.full(rows.num_rows, len(shards), np.int32))
        shards.append(commit.shard)
        tables.append(rows.append_column("shard", shard).select(MANIFEST_SCHEMA.names).cast(MANIFEST_SCHEMA))
    table = pa.concat_tables(tables)
    return shards, {name: table[name] for name in table.schema.names}


def _fragment(content: bytes) -> pa.Table | None:
    """The rows of a unit; None where they cannot be read."""
    try:
        return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)  # a third of what read_table takes
    except pa.ArrowInvalid:
        return None


def _sorted(columns: dict[str, pa.ChunkedArray], cameras: list[str]) -> pa.Table:
    """Rows in order of split, camera (as listed), label, key. Takes the columns out of the dict: 10^7 rows are 1 GB, once."""
    ranks = {
        "split": pc.index_in(columns["split"], pa.array(SPLITS)),
        "camera": pc.index_in(columns["camera"], pa.array(cameras, pa.string())),
        "label": columns["label"],
        "key": columns["key"],
    }
    order = pc.sort_indices(pa.table(ranks), [(name, "ascending") for name in ranks])
    ranks.clear()
    arrays = [columns.pop(field.name).combine_chunks().take(order) for field in MANIFEST_SCHEMA]
    return pa.table(arrays, schema=MANIFEST_SCHEMA)


def _part(manifest: pa.Table, split: str) -> pa.Table:
    """The rows of a split, which lie together in a sorted manifest."""
    counts = {one["values"]: one["counts"] for one in pc.value_counts(manifest["split"]).to_pylist()}
    begin = sum(counts.get(one, 0) for one in SPLITS[: SPLITS.index(split)])
    return manifest.slice(begin, counts.get(split, 0))


def _check(manifest: pa.Table) -> None:
    """No tracklet twice in a split, and one training label per tracklet of a camera; the manifest is sorted."""
    for split in SPLITS:
        keys = _part(manifest, split)["key"]
        keys = keys.take(pc.sort_indices(keys))
        assert not pc.any(_repeated(keys)).as_py(), f"keys twice: {keys.filter(_repeated(keys)).to_pylist()[:3]}"
    training = _part(manifest, "train")
    twice = pc.and_(_repeated(training["camera"]), _repeated(training["label"]))
    assert not pc.any(twice).as_py(), f"labels twice: {training.filter(twice).slice(0, 3).to_pylist()}"


def _repeated(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of the values, (n,) bool, equal the one before them."""
    if not len(column):
        return pa.chunked_array([pa.array([], pa.bool_())])
    return pa.chunked_array([pa.array([False]), *pc.equal(column[1:], column[:-1]).chunks])


def _counted_through(manifest: pa.Table, cameras: list[str]) -> pa.Table:
    """The sorted manifest with labels 0..M_t-1 in each camera: units know only the labels' order, and some units may be missing."""
    is_training = pc.equal(manifest["split"], "train").to_numpy()
    code = pc.index_in(manifest["camera"], pa.array(cameras, pa.string())).to_numpy()[is_training]
    label = np.full(manifest.num_rows, -1, np.int64)
    label[is_training] = np.arange(len(code)) - np.searchsorted(code, code)
    at = manifest.schema.get_field_index("label")
    return manifest.set_column(at, manifest.schema.field("label"), pa.array(label))


def _per_camera(rows: pa.Table, cameras: list[str]) -> list[int]:
    codes = pc.index_in(rows["camera"], pa.array(cameras, pa.string())).to_numpy()
    return np.bincount(codes, minlength=len(cameras)).tolist()


def _camera_counts(manifest: pa.Table, cameras: list[str]) -> list[dict[str, Any]]:
    training = _part(manifest, "train")
    codes = pc.index_in(training["camera"], pa.array(cameras, pa.string())).to_numpy()
    frames = np.bincount(codes, weights=training["num_frames"].to_numpy(), minlength=len(cameras))
    return [
        {"name": name, "num_tracklets": count, "num_frames": int(frames[number])}
        for number, (name, count) in enumerate(zip(cameras, _per_camera(training, cameras)))
    ]


def _counts(manifest: pa.Table, split: str) -> dict[str, int]:
    rows = _part(manifest, split)
    return {"tracklets": rows.num_rows, "frames": int(pc.sum(rows["num_frames"], min_count=0).as_py())}
