"""Reads every byte of a dataset again: checksums, tars as the webdataset package sees them, extents, JPEGs, digest.

All problems are reported, up to a bound, not only the first.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.folder import LocalFolder
from data_tools.shard_writer import index_line
from taudl_dist.dataset import Dataset, Sample, TrackletReader, dataset_digest, is_remote, open_dataset, read_manifest
from taudl_dist.dataset.bounded import EXTENT_BYTES, INFO_BYTES, RECORD_BYTES, open_plain, read_bounded
from taudl_dist.dataset.location import local_path
from taudl_dist.dataset.schema import INDEX_SCHEMA, SHARDS_DIR, SPLITS
from taudl_dist.dataset.tar import check_members
from taudl_dist.errors import UserError
from taudl_dist.progress import clean, progress

_MOST_PROBLEMS = 100
_MOST_PIXELS = 64 * 2**20
"""As many as training takes."""


@dataclass
class Report:
    """What was read and what is wrong with it; `num_problems` counts also those that are not listed."""

    problems: list[str] = field(default_factory=list)
    num_problems: int = 0
    shards: int = 0
    tracklets: int = 0
    images: int = 0

    def add(self, problem: str) -> None:
        """Notes a problem."""
        self.num_problems += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(clean(problem))

    def attempt(self, check: Callable[..., Any], *args: Any) -> Any:
        """The check's result, or None after noting the UserError or OSError it raised."""
        try:
            return check(*args)
        except (UserError, OSError) as error:
            self.add(str(error))
            return None


def validate_dataset(path: str | Path) -> Report:
    """Checks everything that can be wrong with a dataset; of one in an object store a shard at a time lies on the local disk.

    Raises:
        UserError: the folder holds no dataset at all.
    """
    report = Report()
    is_there = is_remote(path) or local_path(path).is_dir()
    dataset = report.attempt(open_dataset, path) if is_there else open_dataset(path)
    manifest = report.attempt(lambda: read_manifest(dataset, splits=SPLITS)) if dataset else None
    if dataset is None or manifest is None:
        return report
    _check_manifest(dataset, manifest, report)
    _check_strays(dataset, report)
    rows_of = _by_shard(manifest, len(dataset.shards))
    for number, name in enumerate(progress(dataset.shards, "validate", unit="shard")):
        rows = rows_of[number].to_pylist()
        with _at_hand(dataset, number, report) as local:
            if not local.shard_path(number).is_file():
                report.add(f"{name}: this shard is missing; make the dataset again")
                continue
            report.attempt(_check_files, local, number, report)
            report.attempt(_check_content, local, number, rows, report)
        report.shards += 1
        if not rows:
            report.add(f"{name}: no row of the manifest lies in it")
    return report


def _by_shard(manifest: pa.Table, num_shards: int) -> list[pa.Table]:
    """The rows of each shard in order of their offset; in one pass, for there may be 10^5 shards."""
    shards = manifest["shard"].to_numpy()
    order = np.lexsort((manifest["offset"].to_numpy(), shards))
    table, bounds = manifest.take(order), np.searchsorted(shards[order], np.arange(num_shards + 1)).tolist()
    return [table.slice(begin, end - begin) for begin, end in pairwise(bounds)]


@contextmanager
def _at_hand(dataset: Dataset, number: int, report: Report) -> Iterator[Dataset]:
    """The dataset with the files of one shard on a local disk."""
    if dataset.storage is None:
        yield dataset
        return
    tar = dataset.shards[number]
    with tempfile.TemporaryDirectory(prefix="taudl-") as folder:
        target = Path(folder) / SHARDS_DIR
        target.mkdir()
        for name in (tar, f"{tar}.idx", f"{tar.removesuffix('.tar')}.ok.json"):
            report.attempt(dataset.storage.copy_file, f"{SHARDS_DIR}/{name}", target / name)
        yield replace(dataset, path=Path(folder), storage=None)


def _check_manifest(dataset: Dataset, manifest: pa.Table, report: Report) -> None:
    """Digest, counts by camera, and the training index, against the manifest."""
    digest = dataset_digest(dataset.cameras, dataset.info["shards"], manifest)
    if digest != dataset.digest:
        report.add(f"digest of the content is {digest}, dataset.json says {dataset.digest}")
    training = manifest.filter(pc.equal(manifest["split"], "train"))
    for name in INDEX_SCHEMA.names:
        wrong = np.flatnonzero(getattr(dataset.training, name) != training[name].to_numpy())
        if len(wrong):
            key = training["key"][int(wrong[0])].as_py()
            report.add(f"training index: {name} differs from the manifest in {len(wrong)} rows, first in {key}")
    codes = pc.index_in(training["camera"], pa.array(dataset.cameras, pa.string()))
    if codes.null_count or not np.array_equal(
        np.bincount(codes.to_numpy(), minlength=len(dataset.cameras)), np.diff(dataset.training.camera_offsets)
    ):
        report.add("manifest: its cameras or their numbers of tracklets differ from dataset.json")
    if manifest["shard"].to_numpy().max(initial=0) >= len(dataset.shards) or (manifest["shard"].to_numpy() < 0).any():
        report.add(f"manifest: names a shard number that does not exist; there are {len(dataset.shards)}")


def _check_strays(dataset: Dataset, report: Report) -> None:
    known = {f"{name}{end}" for name in dataset.shards for end in ("", ".idx")}
    known |= {f"{name.removesuffix('.tar')}.ok.json" for name in dataset.shards}
    local, storage = LocalFolder(dataset.path), dataset.storage
    found = storage.files(SHARDS_DIR) if storage else local.names(SHARDS_DIR)
    read = storage.read_file if storage else lambda name: read_bounded(dataset.path / name, RECORD_BYTES)
    for name in sorted(found.keys() - known):
        if name.endswith(".ok.json") and _is_empty_unit(report.attempt(read, f"{SHARDS_DIR}/{name}") or b""):
            continue  # all of it was dropped
        report.add(f"{SHARDS_DIR}/{name}: belongs to no shard of this dataset; delete it")


def _is_empty_unit(record: bytes) -> bool:
    try:
        return json.loads(record)["shard"] is None
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _check_files(dataset: Dataset, number: int, report: Report) -> None:
    """The shard's size and checksum, its .ok.json and its DALI index."""
    path, expected = dataset.shard_path(number), dataset.info["shards"][number]
    ok_path = path.with_name(f"{path.name.removesuffix('.tar')}.ok.json")
    try:
        if json.loads(read_bounded(ok_path, RECORD_BYTES))["shard"] != expected:
            report.add(f"{ok_path.name}: differs from what dataset.json says of this shard")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        report.add(f"{ok_path.name}: not readable ({error})")
    size = path.stat().st_size
    if size != expected["bytes"]:
        report.add(f"{path.name}: {size} bytes, expected {expected['bytes']}: the file was cut off or replaced")
        return
    with open_plain(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != expected["sha256"]:
        report.add(f"{path.name}: sha256 {sha256[:12]}, expected {expected['sha256'][:12]}: the file was changed")


def _check_content(dataset: Dataset, number: int, rows: list[dict[str, Any]], report: Report) -> None:
    """The shard's samples as webdataset reads them, next to what the manifest's extents hold; every image is decoded."""
    name, reader = dataset.shards[number], TrackletReader(dataset)
    by_key = report.attempt(_webdataset_samples, dataset.shard_path(number), report) or {}
    seen: set[str] = set()
    index = []
    for row in rows:
        sample = report.attempt(reader.read_sample, number, row["offset"], row["length"])
        if sample is None:
            continue
        _check_sample(name, row, sample, by_key.get(sample.key), report)
        if sample.key not in seen:
            seen.add(sample.key)
            index.append(index_line(sample.key, sample.members, row["offset"]))
            report.tracklets += 1
            report.images += sum(_decodes(name, sample, at, report) for at in range(len(sample.jpegs)))
    for key in sorted(set(by_key) - seen):
        report.add(f"{name}: tracklet {key} stands in the tar, but no whole extent of the manifest holds it")
    idx = dataset.shard_path(number).with_name(f"{name}.idx")
    if read_bounded(idx, INFO_BYTES).split() != f"v1.2 {len(index)} {' '.join(index)}".encode().split():
        report.add(f"{idx.name}: DALI index does not fit the tar")


def _check_sample(
    name: str, row: dict[str, Any], sample: Sample, images: dict[str, str] | None, report: Report
) -> None:
    where = f"{name}: tracklet {row['key']}"
    if sample.key != row["key"]:
        report.add(f"{where}: its extent at {row['offset']} holds {sample.key}")
        return
    if len(sample.jpegs) != row["num_frames"]:
        report.add(f"{where}: {len(sample.jpegs)} images, the manifest says {row['num_frames']}")
    if sample.meta.get("frames") != sample.frames or sample.meta.get("camera") != row["camera"]:
        report.add(f"{where}: its .json tells other frames or another camera than tar and manifest")
    ours = {f"{frame:09d}.jpg": hashlib.sha256(jpeg).hexdigest() for frame, jpeg in zip(sample.frames, sample.jpegs)}
    if images is not None and images != ours:
        report.add(f"{where}: webdataset reads other images than its extent holds")


def _webdataset_samples(path: Path, report: Report) -> dict[str, dict[str, str]]:
    """Key -> checksum of each image, as the webdataset package reads the tar."""
    import tarfile

    from webdataset.tariterators import group_by_keys, tar_file_iterator

    def members() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for member in tar_file_iterator(file):
                yield {**member, "__url__": path.name}

    with open_plain(path) as file:
        check_members(file, path.name, most_bytes=EXTENT_BYTES)
    samples = {}
    try:
        for sample in group_by_keys(members()):
            images = {name: content for name, content in sample.items() if name.endswith(".jpg")}
            samples[sample["__key__"]] = {n: hashlib.sha256(content).hexdigest() for n, content in images.items()}
    except (tarfile.TarError, ValueError, EOFError) as error:
        report.add(f"{path.name}: webdataset cannot read it after {len(samples)} tracklets ({error.args[0]})")
    return samples


def _decodes(name: str, sample: Sample, at: int, report: Report) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(sample.jpegs[at]), formats=["JPEG"]) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, expected at most {_MOST_PIXELS}")
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        report.add(f"{name}: image {sample.frames[at]} of tracklet {sample.key} does not decode ({error})")
        return False
    return True
