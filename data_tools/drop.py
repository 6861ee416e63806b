"""Forgetting: tracklets leave a dataset for good, with their bytes, and a line in drops.jsonl says so.

While it goes on the folder is no dataset; killed anywhere, it goes on where it was, from the tars themselves. What this cannot reach:
copies, backups, caches of other machines, blocks a disk has not overwritten yet, and models that were trained on the data.
"""

from __future__ import annotations

import json
import secrets
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.atomic import remove_leftovers, whole_file, write_json
from data_tools.claim import read_driver
from data_tools.commits import FRAGMENTS_DIR, OK
from data_tools.corpus_plan import DROP_FILE, PLAN_FILE
from data_tools.finalize import finalize
from data_tools.folder import LocalFolder
from data_tools.forgotten import DROPS_FILE, Forget, from_json, read_drops, without_forgotten
from data_tools.shard_writer import FRAGMENT_SCHEMA, commit_unit, index_line, index_text
from data_tools.source_files import shown
from data_tools.units import PLAN_DIR
from taudl_dist.dataset import is_remote, read_manifest
from taudl_dist.dataset.dataset import read_info
from taudl_dist.dataset.schema import DATASET_FILE, INDEX_FILE, MANIFEST_FILE, SHARDS_DIR, SPLITS, shard_file
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

_MADE_BY_FINALIZE = ("format", "version", "digest", "cameras", "splits", "shards", "drops")


def find_forgotten(folder: str | Path, forget: Forget) -> pa.Table:
    """The manifest rows that a drop would remove.

    Raises:
        UserError: a remote dataset; cameras or keys the dataset does not have; no row, or all of them.
    """
    _refuse_remote(folder)
    manifest = read_manifest(folder, splits=SPLITS)
    for flag, column, wanted in (("--camera", "camera", forget.cameras), ("--tracklet", "key", forget.keys)):
        unknown = sorted(set(wanted) - set(manifest[column].unique().to_pylist()))
        if unknown:
            raise UserError(f"{flag} {unknown[0]}: not in {folder}; `taudl info` lists cameras, the preview shows keys")
    rows = manifest.filter(pa.array(forget.matches(manifest)))
    if not rows.num_rows:
        raise UserError(f"{folder}: nothing in it lies in that range, so nothing was dropped")
    if rows.num_rows == manifest.num_rows:
        raise UserError(f"{folder}: that is everything in it; delete the folder instead")
    return rows


def drop(folder: str | Path, forget: Forget, *, reason: str) -> dict[str, Any]:
    """Removes tracklets for good and returns the line of drops.jsonl.

    Raises:
        UserError: as `find_forgotten`; or a drop before this one was interrupted.
    """
    _refuse_remote(folder)
    folder = Path(folder)
    _refuse_interrupted(folder)
    rows = find_forgotten(folder, forget)
    info = read_info(folder)
    names = np.array([shard["name"].removesuffix(".tar") for shard in info["shards"]])
    stems = [shard_file(shard).removesuffix(".tar") for shard in info["shards"]]
    units = {name: _commit(folder, stem) for name, stem in zip(names.tolist(), stems)}
    gone: dict[str, list[str]] = {}
    for name, key in zip(names[rows["shard"].to_numpy()].tolist(), rows["key"].to_pylist()):
        gone.setdefault(name, []).append(key)
    counts = {"tracklets": len(rows["key"].unique()), "images": pc.sum(_once(rows)["num_frames"]).as_py()}
    line = {
        "id": secrets.token_hex(8), "time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason,
        "forget": forget.to_json(), **counts, "digest_before": info["digest"],
    }  # fmt: skip
    about = {name: value for name, value in info.items() if name not in _MADE_BY_FINALIZE}
    cameras = [camera["name"] for camera in info["cameras"]]
    write_json(folder / DROP_FILE, {"line": line, "units": units, "gone": gone, "cameras": cameras, "about": about})
    return _carry_out(folder)


def resume_drop(folder: str | Path) -> dict[str, Any]:
    """Goes on with a drop that was interrupted.

    Raises:
        UserError: there is none.
    """
    _refuse_remote(folder)
    if not (Path(folder) / DROP_FILE).exists():
        raise UserError(f"{folder}: no drop was interrupted here; leave --resume out")
    return _carry_out(Path(folder))


def _refuse_remote(folder: str | Path) -> None:
    if is_remote(folder):
        raise UserError(
            f"{shown(folder)}: an object store may keep old versions, so nothing is forgotten there for certain; drop from a local copy, upload"
            " that, and delete the old one with its versions"
        )


def _refuse_interrupted(folder: Path) -> None:
    if (folder / DROP_FILE).exists():
        raise UserError(f"{folder}: a drop was interrupted; run `taudl drop {folder} --resume` first")
    driver = read_driver(LocalFolder(folder))
    if driver:
        raise UserError(
            f"{folder}: a `taudl shard` (pid {driver['pid']} on {driver['host']}) is at work in it, or was interrupted; let it end, or"
            " run it again, then drop"
        )


def _commit(folder: Path, stem: str) -> dict[str, Any]:
    """What a unit's commit record says that a new one has to say too, and what its files are called."""
    record = folder / SHARDS_DIR / f"{stem}{OK}"
    try:
        ok = json.loads(record.read_text())
        return {"plan": ok["plan"], "failed": ok.get("failed", {}), "stem": stem}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{record}: not readable ({error}); see `taudl validate {folder}`") from None


def _once(rows: pa.Table) -> pa.Table:
    """A row per tracklet: one that is query and gallery stands in the manifest twice."""
    return rows.group_by("key").aggregate([("num_frames", "max")]).rename_columns(["key", "num_frames"])


def _carry_out(folder: Path) -> dict[str, Any]:
    """All steps; each may be done already."""
    journal = json.loads((folder / DROP_FILE).read_text())
    for name in (DATASET_FILE, MANIFEST_FILE, INDEX_FILE):
        (folder / name).unlink(missing_ok=True)
    for part in (folder, folder / SHARDS_DIR, folder / FRAGMENTS_DIR):
        remove_leftovers(part)
    units: dict[str, dict[str, Any]] = journal["units"]
    for unit, about in units.items():
        _take_own_name(folder, unit, about["stem"])
    for unit, keys in progress(journal["gone"].items(), "drop", unit="shard"):
        _rewrite_unit(folder, unit, set(keys), plan=units[unit]["plan"], failed=units[unit]["failed"])
    line = journal["line"]
    drops = [one for one in read_drops(LocalFolder(folder)) if one["id"] != line["id"]]
    _write_drops(folder, [*drops, line])  # before a dataset stands again, so that it is never without its record
    _forget_planned(folder, from_json(line["forget"]))
    left = {unit: about["plan"] for unit, about in units.items() if _has_rows(folder, unit)}
    about = {**journal["about"], "drops": len(drops) + 1}
    line = {**line, "digest": finalize(LocalFolder(folder), units=left, cameras=journal["cameras"], about=about)}
    _write_drops(folder, [*drops, line])
    (folder / DROP_FILE).unlink()
    log(f"{folder}: dropped; what copies, backups and trained models hold is not reached")
    return line


def _take_own_name(folder: Path, unit: str, stem: str) -> None:
    """In a copy of a dataset from an object store the files of a unit carry the names of an attempt."""
    if stem == unit:
        return
    for part, ending in ((SHARDS_DIR, ".tar"), (SHARDS_DIR, ".tar.idx"), (FRAGMENTS_DIR, ".parquet")):
        old = folder / part / f"{stem}{ending}"
        if old.exists():
            old.replace(folder / part / f"{unit}{ending}")
    old = folder / SHARDS_DIR / f"{stem}{OK}"
    if old.exists():
        ok = json.loads(old.read_text())
        shard = {name: value for name, value in ok["shard"].items() if name != "file"}
        write_json(folder / SHARDS_DIR / f"{unit}{OK}", {**ok, "shard": shard})
        old.unlink()


def _write_empty_unit(folder: Path, unit: str, *, plan_digest: str) -> None:
    """Commits a unit of which nothing may be left; its record is replaced first, so that nobody looks for its tar."""
    record: dict[str, Any] = {"plan": plan_digest, "shard": None, "tracklets": 0, "rows": 0, "failed": {}}
    write_json(folder / SHARDS_DIR / f"{unit}{OK}", record)
    for ending in (".tar", ".tar.idx"):
        (folder / SHARDS_DIR / f"{unit}{ending}").unlink(missing_ok=True)
    with whole_file(folder / FRAGMENTS_DIR / f"{unit}.parquet") as temporary:
        pq.write_table(FRAGMENT_SCHEMA.empty_table(), temporary)


def _has_rows(folder: Path, unit: str) -> bool:
    return pq.read_metadata(folder / FRAGMENTS_DIR / f"{unit}.parquet").num_rows > 0


def _write_drops(folder: Path, lines: list[dict[str, Any]]) -> None:
    with whole_file(folder / DROPS_FILE) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _rewrite_unit(folder: Path, unit: str, gone: set[str], *, plan: str, failed: dict[str, str]) -> None:
    """The unit without some tracklets: the bytes it would have had if they had never been. The tar alone tells where it stands."""
    tar = folder / SHARDS_DIR / f"{unit}.tar"
    extents = [extent for extent in _extents(tar) if extent.key not in gone] if tar.exists() else []
    if not extents:
        _write_empty_unit(folder, unit, plan_digest=plan)
        return
    rows = pq.read_table(folder / FRAGMENTS_DIR / f"{unit}.parquet", schema=FRAGMENT_SCHEMA)
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        by_key.setdefault(row["key"], []).append(row)

    def write(path: Path) -> tuple[list[dict[str, Any]], str]:
        written, lines = [], []
        with tar.open("rb") as source, path.open("wb") as target:
            for extent in extents:
                offset = target.tell()
                source.seek(extent.offset)
                target.write(source.read(extent.length))
                written += [{**row, "offset": offset, "length": extent.length} for row in by_key[extent.key]]
                lines.append(index_line(extent.key, extent.members, offset))
            end = target.tell() + 2 * tarfile.BLOCKSIZE
            target.write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - target.tell()))
        return written, index_text(lines)

    commit_unit(LocalFolder(folder), unit, write, plan_digest=plan, failed=failed)


@dataclass
class _Extent:
    """A tracklet in a tar: where, and size by extension of its members."""

    key: str
    offset: int
    length: int
    members: dict[str, int]


def _extents(tar: Path) -> Iterator[_Extent]:
    extent: _Extent | None = None
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                key, extension = member.name.split(".", 1)
                if extent is None or extent.key != key:
                    if extent:
                        yield extent
                    extent = _Extent(key=key, offset=member.offset, length=0, members={})
                extent.members[extension] = member.size
                padded = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                extent.length = member.offset_data + padded - extent.offset
    except tarfile.TarError as error:
        raise UserError(f"{tar}: damaged ({error}); restore it from a copy, then run `taudl drop --resume`") from None
    if extent:
        yield extent


def _forget_planned(folder: Path, forget: Forget) -> None:
    """Units that failed keep the plan of their crops until they are tried again; it forgets too."""
    paths = sorted((folder / PLAN_DIR).glob("*.parquet"))
    planned = json.loads((folder / PLAN_FILE).read_text())["units"] if paths else []
    by_name = {unit["name"]: unit for unit in planned}
    for path in paths:
        unit = by_name.get(path.stem)
        if unit is None:  # of an --extend that was interrupted
            path.unlink()
            continue
        crops = pq.read_table(path)
        kept = without_forgotten(crops, unit["camera"], [forget])
        if not kept.num_rows:
            _write_empty_unit(folder, path.stem, plan_digest=unit["digest"])
            path.unlink()
        elif kept.num_rows < crops.num_rows:
            with whole_file(path) as temporary:
                pq.write_table(kept, temporary)
