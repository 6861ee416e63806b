"""Tracklet features: the mean, or the largest value, over a tracklet's frames of what an extractor makes of each image.

Images are read tracklet by tracklet and go through the extractor in batches of a fixed size that tracklets
may straddle, so that memory depends on the batch and on the number of tracklets, not on their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.protocols import Pooling
from taudl_dist.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset
    from taudl_dist.model import ReidModel

Extractor = Callable[[list[bytes]], np.ndarray]
"""Encoded images -> their features (n, D) float32."""


def embed(
    model: ReidModel,
    dataset: Dataset,
    rows: pa.Table,
    *,
    frames: int = 0,
    pooling: Pooling = "mean",
    batch_images: int = 128,
    device: str = "cpu",
    label: str = "features",
) -> np.ndarray:
    """Features (N, D) float32 of the tracklets in `rows` (a manifest table); see `pooled_features`."""
    extract = extractor(model, batch_images=batch_images, device=device)
    return pooled_features(
        extract, dataset, rows, frames=frames, pooling=pooling, batch_images=batch_images, label=label
    )


def extractor(model: ReidModel, *, batch_images: int = 128, device: str = "cpu") -> Extractor:
    """What a network makes of at most `batch_images` JPEGs at a time."""
    import torch

    from taudl_dist.batches.pipeline import DecodePipeline

    height, width = model.image_size
    pipeline = DecodePipeline(batch_images, height, width, device)
    model = model.to(device).eval()
    dtype = next(model.parameters()).dtype

    def extract(jpegs: list[bytes]) -> np.ndarray:
        whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(jpegs), 1))
        images = pipeline.decode(jpegs, whole, np.zeros(len(jpegs), bool))
        with torch.inference_mode():
            return model(images.to(dtype), [len(jpegs)]).float().cpu().numpy()

    return extract


def pooled_features(
    extract: Extractor,
    dataset: Dataset,
    rows: pa.Table,
    *,
    frames: int = 0,
    pooling: Pooling = "mean",
    batch_images: int = 128,
    label: str = "features",
) -> np.ndarray:
    """Mean or largest features (N, D) float32 of the tracklets in `rows`, over all frames (0) or `frames` evenly spaced ones.

    Raises:
        UserError: a damaged image or shard, with the tracklet's key.
    """
    counts = np.asarray(rows["num_frames"])
    counts = np.minimum(counts, frames) if frames else counts
    total = np.zeros((0, 0), np.float32)
    join = np.add if pooling == "mean" else np.maximum
    images = progress(_images(dataset, rows, frames), label, unit="img", total=int(counts.sum()))
    for owners, jpegs in _batches(images, batch_images):
        features = _extract(extract, jpegs, owners, rows)
        if not total.size:
            total = np.full((len(rows), features.shape[1]), 0 if pooling == "mean" else -np.inf, np.float32)
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        own = owners[first]
        total[own] = join(total[own], join.reduceat(features, first, axis=0))
    return total / counts[:, None].astype(np.float32) if pooling == "mean" else total


def best_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def evenly_spaced(num_frames: int, wanted: int) -> np.ndarray:
    """Positions of `wanted` frames in the middles of equal parts of 0..num_frames-1; 0 or more than there are: all."""
    if not 0 < wanted < num_frames:
        return np.arange(num_frames)
    return (2 * np.arange(wanted) + 1) * num_frames // (2 * wanted)


def _images(dataset: Dataset, rows: pa.Table, frames: int) -> Iterator[tuple[int, bytes]]:
    """Position in `rows` and encoded image of every frame, tracklet after tracklet."""
    from taudl_dist.dataset import TrackletReader

    reader = TrackletReader(dataset)
    num_frames, *place = (np.asarray(rows[name]).tolist() for name in ("num_frames", "shard", "offset", "length"))
    for position, jpegs in enumerate(reader.stream(zip(*place))):
        if len(jpegs) != num_frames[position]:
            raise UserError(
                f"tracklet {rows['key'][position]} has {len(jpegs)} images in its shard, but {num_frames[position]} in the manifest;"
                " run `taudl validate`, then make the dataset again"
            )
        for frame in evenly_spaced(len(jpegs), frames):
            yield position, jpegs[frame]


def _batches(images: Iterator[tuple[int, bytes]], size: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    owners: list[int] = []
    jpegs: list[bytes] = []
    for owner, jpeg in images:
        owners.append(owner)
        jpegs.append(jpeg)
        if len(jpegs) == size:
            yield np.array(owners), jpegs
            owners, jpegs = [], []
    if jpegs:
        yield np.array(owners), jpegs


def _extract(extract: Extractor, jpegs: list[bytes], owners: np.ndarray, rows: pa.Table) -> np.ndarray:
    from taudl_dist.batches.pipeline import CorruptImageError

    try:
        features = extract(jpegs)
    except CorruptImageError as error:
        owner = int(owners[error.position])
        raise UserError(
            f"tracklet {rows['key'][owner]} of shard {rows['shard'][owner]}: {error.reason}; run `taudl validate`, then"
            " make the dataset again"
        ) from None
    if not np.isfinite(features).all():
        broken = owners[~np.isfinite(features).all(axis=1)][0]
        raise UserError(
            f"tracklet {rows['key'][int(broken)]}: its feature is not finite; the model's weights are damaged or its"
            " training diverged"
        )
    return features
