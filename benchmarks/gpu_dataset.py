"""A dataset for benchmarks, made with tarfile and Pillow (which torchvision needs anyway): the sizes of real crops, no content."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from PIL import Image

from taudl_dist.dataset import Dataset, open_dataset
from taudl_dist.dataset.index import write_index
from taudl_dist.dataset.schema import DATASET_FILE, FORMAT, INDEX_FILE, SHARDS_DIR, SPLITS, VERSION

_DIFFERENT_IMAGES = 256


def make_dataset(folder: Path, *, cameras: int, tracklets: int, frames: int, heights: tuple[int, int]) -> Dataset:
    """Writes and opens a dataset of `tracklets` training tracklets of `frames` images in each camera.

    Args:
        heights: of the images, smallest and largest, in pixels; widths are 0.4 of them. (0, 0) writes no images: then the dataset
            serves for plans and heads alone.
    """
    (folder / SHARDS_DIR).mkdir(parents=True)
    jpegs = random_jpegs(_DIFFERENT_IMAGES, heights) if any(heights) else []
    columns: dict[str, list[int]] = {name: [] for name in ("label", "shard", "offset", "length", "num_frames")}
    shards = []
    for camera in range(cameras):
        tar = folder / SHARDS_DIR / f"cam{camera}-0.tar"
        extents = _write_tar(tar, camera, tracklets, frames, jpegs) if jpegs else [(0, 0)] * tracklets
        for label, (offset, length) in enumerate(extents):
            for name, value in zip(columns, (label, camera, offset, length, frames)):
                columns[name].append(value)
        shards.append({"name": tar.name, "bytes": tar.stat().st_size if jpegs else 0, "sha256": "0" * 64})
    write_index(folder / INDEX_FILE, {name: np.array(values) for name, values in columns.items()})
    counts = {"tracklets": tracklets, "frames": tracklets * frames}
    info = {
        "format": FORMAT,
        "version": VERSION,
        "digest": f"benchmark {cameras} {tracklets} {frames} {heights}",
        "cameras": [
            {"name": f"cam{camera}", "num_tracklets": tracklets, "num_frames": tracklets * frames}
            for camera in range(cameras)
        ],
        "splits": {
            split: {name: count * cameras * (split == "train") for name, count in counts.items()} for split in SPLITS
        },
        "shards": shards,
    }
    (folder / DATASET_FILE).write_text(json.dumps(info))
    return open_dataset(folder)


def random_jpegs(count: int, heights: tuple[int, int]) -> list[bytes]:
    """Smooth random pictures with a little noise, quality 90: about as many bytes a pixel as crops of people."""
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    jpegs = []
    for height in random.integers(heights[0], heights[1] + 1, count).tolist():
        size = (height, max(8, round(0.4 * height)))
        coarse = torch.rand(1, 3, 24, 10, generator=generator) * 255
        smooth = F.interpolate(coarse, size, mode="bicubic")[0]
        noisy = smooth + 6 * torch.randn(smooth.shape, generator=generator)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clamp(0, 255).byte().movedim(0, -1).numpy()).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return jpegs


def _write_tar(path: Path, camera: int, tracklets: int, frames: int, jpegs: Sequence[bytes]) -> list[tuple[int, int]]:
    """Offset and length of each tracklet."""
    extents = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for label in range(tracklets):
            start, first = tar.offset, (camera * tracklets + label) * frames
            members = {f"{frame:09d}.jpg": jpegs[(first + frame) % len(jpegs)] for frame in range(frames)}
            members["json"] = json.dumps({"camera": f"cam{camera}", "track": label}).encode()
            for extension, content in members.items():
                header = tarfile.TarInfo(f"cam{camera}-{label:016x}.{extension}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
            extents.append((start, tar.offset - start))
    return extents
