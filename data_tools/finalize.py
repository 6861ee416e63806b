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
    shards, manifest = _merge(folder, units, commits)
    _check(manifest, cameras)
    present = set(manifest["camera"].unique().to_pylist())
    cameras = [camera for camera in cameras if camera in present]
    manifest = _counted_through(_sorted(manifest, cameras), cameras)
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
    training = manifest.filter(pc.equal(manifest["split"], "train"))
    with folder.whole_file(INDEX_FILE) as temporary:
        write_index(temporary, {name: training[name].to_numpy() for name in INDEX_SCHEMA.names})
    folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
    write_json(folder, DATASET_FILE, info)
    remove_losers(folder, commits.values())
    return digest


def _merge(
    folder: Folder, units: Mapping[str, str], commits: Mapping[str, Commit]
) -> tuple[list[dict[str, Any]], pa.Table]:
    missing = next((unit for unit in units if unit not in commits), None)
    if missing:
        raise UserError(f"{folder}: unit {missing} is not complete; run the same command again to go on")
    shards: list[dict[str, Any]] = []
    tables = [MANIFEST_SCHEMA.empty_table()]
    done = [commits[unit] for unit in units]
    for commit, content in zip(done, folder.map(lambda commit: folder.read(commit.fragment), done)):
        rows = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)  # a third of what read_table takes
        if rows.num_rows != commit.rows:
            raise UserError(
                f"{folder}: {commit.fragment} has {rows.num_rows} rows, its {OK} says {commit.rows}; delete"
                f" {SHARDS_DIR}/{commit.stem}{OK} and run the same command again"
            )
        if not commit.shard:  # all of it was dropped
            continue
        shard = pa.array(np.full(rows.num_rows, len(shards), np.int32))
        shards.append(commit.shard)
        tables.append(rows.append_column("shard", shard).select(MANIFEST_SCHEMA.names).cast(MANIFEST_SCHEMA))
    return shards, pa.concat_tables(tables)


def _sorted(manifest: pa.Table, cameras: list[str]) -> pa.Table:
    """Rows in order of split, camera (as listed), label, key."""
    ranks = {
        "split": pc.index_in(manifest["split"], pa.array(SPLITS)),
        "camera": pc.index_in(manifest["camera"], pa.array(cameras, pa.string())),
        "label": manifest["label"],
        "key": manifest["key"],
    }
    order = pc.sort_indices(pa.table(ranks), [(name, "ascending") for name in ranks])
    return manifest.take(order).combine_chunks()


def _check(manifest: pa.Table, cameras: list[str]) -> None:
    """No tracklet twice, only known cameras, and one training label per tracklet."""
    twice = manifest.group_by(["split", "key"]).aggregate([([], "count_all")]).filter(pc.field("count_all") > 1)
    assert not twice.num_rows, f"keys twice: {twice['key'].to_pylist()[:3]}"
    assert set(manifest["camera"].unique().to_pylist()) <= set(cameras)
    training = manifest.filter(pc.equal(manifest["split"], "train"))
    twice = training.group_by(["camera", "label"]).aggregate([([], "count_all")]).filter(pc.field("count_all") > 1)
    assert not twice.num_rows, f"labels twice: {twice.slice(0, 3).to_pylist()}"


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
    training = manifest.filter(pc.equal(manifest["split"], "train"))
    codes = pc.index_in(training["camera"], pa.array(cameras, pa.string())).to_numpy()
    frames = np.bincount(codes, weights=training["num_frames"].to_numpy(), minlength=len(cameras))
    return [
        {"name": name, "num_tracklets": count, "num_frames": int(frames[number])}
        for number, (name, count) in enumerate(zip(cameras, _per_camera(training, cameras)))
    ]


def _counts(manifest: pa.Table, split: str) -> dict[str, int]:
    rows = manifest.filter(pc.equal(manifest["split"], split))
    return {"tracklets": rows.num_rows, "frames": int(pc.sum(rows["num_frames"], min_count=0).as_py())}
