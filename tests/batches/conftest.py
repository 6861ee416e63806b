"""A synthetic index in memory, and small datasets on disk written here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from taudl_dist.dataset import open_dataset
from taudl_dist.dataset.index import TrainingIndex, write_index


def _index_in_memory(sizes, *, digest="0" * 64, num_frames=None):
    """A dataset object without files: `sizes` tracklets per camera, two shards each."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    label = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    if num_frames is None:
        num_frames = np.random.default_rng(0).integers(1, 17, offsets[-1], dtype=np.int32)
    rng = np.random.default_rng(1)
    training = TrainingIndex(
        camera_offsets=offsets,
        label=label.astype(np.int32),
        shard=(np.repeat(np.arange(len(sizes)) * 2, sizes) + rng.integers(0, 2, offsets[-1])).astype(np.int32),
        offset=np.arange(offsets[-1]) * 512,
        length=rng.integers(1000, 9000, offsets[-1]),
        num_frames=num_frames,
    )
    return SimpleNamespace(digest=digest, training=training, cameras=[f"cam{c + 1}" for c in range(len(sizes))])


def _smooth_jpeg(rng, width, height):
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write_dataset(folder: Path, sizes, *, spoil=None) -> Path:
    """A dataset of `sizes` tracklets per camera, 1 to 6 images each; spoil(camera, label, frame, jpeg) -> jpeg."""
    rng = np.random.default_rng(7)
    (folder / "shards").mkdir(parents=True)
    columns = {name: [] for name in ("label", "shard", "offset", "length", "num_frames")}
    shards = []
    for camera, size in enumerate(sizes):
        path = folder / "shards" / f"cam{camera + 1}-0.tar"
        with TarWriter(str(path), mtime=0, encoder=False) as tar:
            for label in range(size):
                start, frames = tar.tarstream.offset, int(rng.integers(1, 7))
                key = f"cam{camera + 1}-{label:012x}"
                sample = {"__key__": key}
                for frame in range(frames):
                    jpeg = _smooth_jpeg(rng, int(rng.integers(24, 60)), int(rng.integers(60, 140)))
                    sample[f"{frame * 5:06d}.jpg"] = spoil(camera, label, frame, jpeg) if spoil else jpeg
                sample["json"] = json.dumps({"camera": f"cam{camera + 1}", "track": label}).encode()
                tar.write(sample)
                row = (label, camera, start, tar.tarstream.offset - start, frames)
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
        shards.append({"name": path.name, "bytes": path.stat().st_size, "sha256": "0" * 64})
    write_index(folder / "tracklets.arrow", {name: np.array(values) for name, values in columns.items()})
    empty = {"tracklets": 0, "frames": 0}
    info = {
        "format": "taudl-dataset",
        "version": 1,
        "digest": "f" * 64,
        "cameras": [{"name": f"cam{c + 1}", "num_tracklets": size, "num_frames": 0} for c, size in enumerate(sizes)],
        "splits": {"train": {"tracklets": sum(sizes), "frames": 0}, "query": empty, "gallery": empty},
        "shards": shards,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def index_in_memory():
    return _index_in_memory


@pytest.fixture(scope="session")
def write_dataset():
    return _write_dataset


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """Five cameras of 9, 4, 2, 12 and 6 tracklets on disk, opened."""
    return open_dataset(_write_dataset(tmp_path_factory.mktemp("small") / "dataset", [9, 4, 2, 12, 6]))
