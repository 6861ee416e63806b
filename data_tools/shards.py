"""A dataset from pictures that already exist as JPEG: what the importers of benchmarks call.

The folder appears when it is complete. Files are copied byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.atomic import TEMPORARY
from data_tools.commits import FRAGMENTS_DIR
from data_tools.finalize import finalize
from data_tools.folder import LocalFolder
from data_tools.shard_writer import ShardTracklet, safe_name, tracklet_key, write_unit
from taudl_dist.dataset.location import is_remote, local_path
from taudl_dist.dataset.schema import SHARDS_DIR, SPLITS
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import progress

_IMAGES_PER_SHARD = 20_000


@dataclass(frozen=True, kw_only=True)
class ImportTracklet:
    """A tracklet of an existing collection.

    camera; split: train, query, gallery, or both (a test tracklet that is query and gallery); name: unique within its
    camera and split; frames: (frame number, JPEG), ascending, the JPEG as bytes, as the path of a file, or as a function that
    gives the bytes when they are written; person_id: 0 distractor, -1 junk, None unknown; times_s: seconds of each frame;
    source: where it comes from, kept beside the images.
    """

    camera: str
    split: str
    name: str
    frames: Sequence[tuple[int, bytes | Path | Callable[[], bytes]]]
    person_id: int | None = None
    times_s: list[float] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        assert self.split in (*SPLITS, "both"), self.split
        assert self.times_s is None or len(self.times_s) == len(self.frames)


def write_dataset(
    out: str | Path,
    tracklets: Iterable[ImportTracklet],
    *,
    settings: Mapping[str, Any],
    source: Mapping[str, Any],
    encoder: Mapping[str, Any] | None = None,
    images_per_shard: int = _IMAGES_PER_SHARD,
) -> Path:
    """Writes a whole dataset folder and returns it.

    Training labels follow the order in which a camera's tracklets come; tracklets lie in hashed order inside their shards.

    Raises:
        UserError: `out` exists and is not empty, or lies in an object store; no tracklets; an image file that is missing or is no JPEG.
    """
    if is_remote(out):
        raise UsageError(f"{out}: expected a folder on this machine; write the dataset there, then upload it")
    out = local_path(out)
    refuse_non_empty(out)
    tracklets = list(tracklets)
    if not tracklets:
        raise UserError(f"{out}: no tracklets to write; check the folder that was to be imported")
    labels = _labels(tracklets)
    units = _units(tracklets, images_per_shard)
    work = out.with_name(f"{out.name}{TEMPORARY}{secrets.token_hex(4)}")
    about = {"settings": dict(settings), "encoder": dict(encoder or {"jpeg": "as imported"}), "source": dict(source)}
    plan_digest = hashlib.sha256(json.dumps([about, list(units)], sort_keys=True).encode()).hexdigest()
    try:
        folder = LocalFolder(work)
        folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
        for unit, members in progress(units.items(), "write shards", unit="shard"):
            write_unit(folder, unit, _load(members, tracklets, labels), plan_digest=plan_digest)
        cameras = sorted({tracklet.camera for tracklet in tracklets})
        finalize(folder, units=dict.fromkeys(units, plan_digest), cameras=cameras, about=about)
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def refuse_non_empty(out: Path) -> None:
    """An output folder that holds something is never written into."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; choose another output folder, or delete this one first")


def _labels(tracklets: list[ImportTracklet]) -> list[int]:
    seen: dict[str, int] = {}
    labels = []
    for tracklet in tracklets:
        is_training = tracklet.split == "train"
        labels.append(seen.get(tracklet.camera, 0) if is_training else -1)
        if is_training:
            seen[tracklet.camera] = labels[-1] + 1
    return labels


def _units(tracklets: list[ImportTracklet], images_per_shard: int) -> dict[str, list[tuple[str, int]]]:
    """Unit -> (key, position in `tracklets`) of its tracklets, in key order."""
    by_shard: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for position, tracklet in enumerate(tracklets):
        key = tracklet_key(tracklet.camera, f"{tracklet.split}/{tracklet.name}")
        by_shard.setdefault((tracklet.camera, tracklet.split), []).append((key, position))
    units: dict[str, list[tuple[str, int]]] = {}
    for (camera, split), members in sorted(by_shard.items()):
        images = 0
        for key, position in sorted(members):
            unit = f"{safe_name(camera)}-{split}-{images // images_per_shard:05d}"
            units.setdefault(unit, []).append((key, position))
            images += len(tracklets[position].frames)
    return units


def _load(
    members: list[tuple[str, int]], tracklets: list[ImportTracklet], labels: list[int]
) -> Iterator[ShardTracklet]:
    for key, position in members:
        tracklet = tracklets[position]
        numbers = [frame for frame, _ in tracklet.frames]
        times_s = tracklet.times_s or [0.0]
        meta = {"camera": tracklet.camera, "frames": numbers, "times_s": tracklet.times_s, "source": tracklet.source}
        yield ShardTracklet(
            key=key,
            camera=tracklet.camera,
            splits=("query", "gallery") if tracklet.split == "both" else (tracklet.split,),
            label=labels[position],
            person_id=tracklet.person_id,
            start_s=times_s[0],
            end_s=times_s[-1],
            images=[(frame, _jpeg(image)) for frame, image in tracklet.frames],
            meta=meta,
        )


def _jpeg(image: bytes | Path | Callable[[], bytes]) -> bytes:
    if callable(image):
        return image()
    try:
        content = image if isinstance(image, bytes) else image.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such image; the collection is incomplete, unpack it again") from None
    if not content.startswith(b"\xff\xd8"):
        name = "an image" if isinstance(image, bytes) else str(image)
        raise UserError(f"{name}: not a JPEG (begins with {content[:4]!r}); the collection is damaged, unpack it again")
    return content
