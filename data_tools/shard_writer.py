"""One unit of a dataset on disk: its tar, DALI index and manifest fragment, committed by an .ok.json that is written last.

The bytes are a function of the unit's tracklets alone, so an attempt that was thought dead and writes late does no harm.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.commits import FRAGMENTS_DIR, OK
from data_tools.folder import Folder, write_json
from taudl_dist.dataset.bounded import EXTENT_BYTES
from taudl_dist.dataset.schema import MANIFEST_SCHEMA, SHARDS_DIR
from taudl_dist.errors import UserError

FRAGMENT_SCHEMA = MANIFEST_SCHEMA.remove(MANIFEST_SCHEMA.get_field_index("shard"))
"""The manifest rows of one unit; the shard's number is known when all units are done."""

_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class ShardTracklet:
    """A tracklet on its way into a tar. `images`: (frame number, JPEG), ascending. `meta`: the content of <key>.json.

    `splits` has one entry, or both query and gallery: then two manifest rows share one extent.
    """

    key: str
    camera: str
    splits: tuple[str, ...]
    label: int
    person_id: int | None
    start_s: float
    end_s: float
    images: list[tuple[int, bytes]]
    meta: dict[str, Any]


def tracklet_key(camera: str, name: str) -> str:
    """Key of a tracklet: the camera in safe letters and a hash, which is also the tracklet's place in the hashed order."""
    digest = hashlib.sha256(f"{camera}\0{name}".encode()).hexdigest()
    return f"{safe_name(camera)}-{digest[:16]}"


def safe_name(camera: str) -> str:
    """A camera's name in letters that suit file names and tar keys (no dots), still different for different cameras."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", camera)[:40]
    return safe if safe == camera else f"{safe}-{hashlib.sha256(camera.encode()).hexdigest()[:6]}"


def write_unit(
    folder: Folder,
    unit: str,
    tracklets: Iterable[ShardTracklet],
    *,
    plan_digest: str,
    failed: Mapping[str, str] | None = None,
) -> None:
    """Writes and commits a unit; the tracklets stand in the tar in the order given.

    Args:
        failed: planned tracklets (keys) that are missing, and why.
    """
    commit_unit(folder, unit, lambda path: _write_tar(path, tracklets), plan_digest=plan_digest, failed=failed)


def commit_unit(
    folder: Folder,
    unit: str,
    write: Callable[[Path], tuple[list[dict[str, Any]], str]],
    *,
    plan_digest: str,
    failed: Mapping[str, str] | None = None,
) -> None:
    """Puts a unit's files in place, the commit record last. `write` makes the tar at a path: its manifest rows and DALI's index."""
    stem = unit + folder.attempt()
    with folder.whole_file(f"{SHARDS_DIR}/{stem}.tar") as temporary:
        rows, index = write(temporary)
        with temporary.open("rb") as written:
            shard = {
                "name": f"{unit}.tar",
                "bytes": temporary.stat().st_size,
                "sha256": hashlib.file_digest(written, "sha256").hexdigest(),
            }
    if stem != unit:
        shard["file"] = f"{stem}.tar"
    folder.write(f"{SHARDS_DIR}/{stem}.tar.idx", index.encode())
    with folder.whole_file(f"{FRAGMENTS_DIR}/{stem}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=FRAGMENT_SCHEMA), temporary)
    counts = {"tracklets": len({row["key"] for row in rows}), "rows": len(rows)}
    record = {"plan": plan_digest, "shard": shard, **counts, "failed": dict(failed or {})}
    write_json(folder, f"{SHARDS_DIR}/{stem}{OK}", record)


def _write_tar(path: Path, tracklets: Iterable[ShardTracklet]) -> tuple[list[dict[str, Any]], str]:
    """The manifest rows and the text of DALI's webdataset index."""
    from webdataset.writer import TarWriter

    rows: list[dict[str, Any]] = []
    samples = []
    with path.open("wb") as file, TarWriter(file, user="taudl", group="taudl", mtime=0, encoder=False) as writer:
        for tracklet in tracklets:
            offset = writer.tarstream.offset
            members = _members(tracklet)
            writer.write({"__key__": tracklet.key, **members})
            length = writer.tarstream.offset - offset
            _check_length(tracklet, length)
            sizes = {extension: len(content) for extension, content in members.items()}
            samples.append(index_line(tracklet.key, sizes, offset))
            rows += [_row(tracklet, split, offset, length) for split in tracklet.splits]
    return rows, index_text(samples)


def _check_length(tracklet: ShardTracklet, length: int) -> None:
    """What readers would refuse is not written."""
    if length > EXTENT_BYTES:
        raise UserError(
            f"tracklet {tracklet.key} of camera {tracklet.camera!r}: {len(tracklet.images)} images of {length / 1e6:.0f} MB, and readers"
            f" take at most {EXTENT_BYTES / 1e6:.0f} MB a tracklet; give fewer or smaller images"
        )


def index_text(lines: list[str]) -> str:
    """DALI's index of a tar from the lines of its tracklets."""
    return f"v1.2 {len(lines)}\n" + "".join(f"{line}\n" for line in lines)


def _members(tracklet: ShardTracklet) -> dict[str, bytes]:
    """Content by extension. Nine digits: the writer sorts extensions as text, and a camera runs for weeks."""
    frames = [frame for frame, _ in tracklet.images]
    if not frames or frames != sorted(set(frames)) or frames[0] < 0 or frames[-1] >= 10**9:
        raise UserError(
            f"tracklet {tracklet.key} of camera {tracklet.camera!r}: frame numbers {frames[:3]}...; expected at least one"
            " frame, and ascending numbers from 0 to 10^9 without repetition"
        )
    images = {f"{frame:09d}.jpg": jpeg for frame, jpeg in tracklet.images}
    return {**images, "json": json.dumps(tracklet.meta, sort_keys=True, separators=(",", ":")).encode()}


def index_line(key: str, members: dict[str, int], offset: int) -> str:
    """A line of DALI's index: `extension offset size name` of each member (size by extension), where offset is its content's."""
    words = []
    for extension, size in members.items():
        words.append(f"{extension} {offset + _BLOCK} {size} {key}.{extension}")
        offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return " ".join(words)


def _row(tracklet: ShardTracklet, split: str, offset: int, length: int) -> dict[str, Any]:
    return {
        "camera": tracklet.camera,
        "label": tracklet.label,
        "split": split,
        "key": tracklet.key,
        "offset": offset,
        "length": length,
        "num_frames": len(tracklet.images),
        "start_s": tracklet.start_s,
        "end_s": tracklet.end_s,
        "person_id": tracklet.person_id,
    }
