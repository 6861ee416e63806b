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

BATCH_IMAGES = 128
"""Images that go through the network at a time."""

Extractor = Callable[[list[bytes]], np.ndarray]
"""Encoded images -> their features (n, D) float32."""


def embed(
    model: ReidModel,
    dataset: Dataset,
    rows: pa.Table,
    *,
    frames: int = 0,
    pooling: Pooling = "mean",
    parts: int = 1,
    flip: bool = False,
    batch_images: int = BATCH_IMAGES,
    device: str = "cpu",
    label: str = "features",
) -> np.ndarray:
    """Features (N * parts, D) float32 of the tracklets in `rows` (a manifest table); see `extractor` and `pooled_features`."""
    extract = extractor(model, flip=flip, batch_images=batch_images, device=device)
    return pooled_features(
        extract, dataset, rows, frames=frames, pooling=pooling, parts=parts, batch_images=batch_images, label=label
    )


def extractor(
    model: ReidModel, *, flip: bool = False, batch_images: int = BATCH_IMAGES, device: str = "cpu"
) -> Extractor:
    """What a network makes of at most `batch_images` JPEGs at a time; with `flip` the mean over each image and its mirror image."""
    import torch

    from taudl_dist.batches.pipeline import DecodePipeline

    height, width = model.image_size
    pipeline = DecodePipeline(batch_images, height, width, device)
    model = model.to(device).eval()
    dtype = next(model.parameters()).dtype

    def extract(jpegs: list[bytes]) -> np.ndarray:
        whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(jpegs), 1))
        images = pipeline.decode(jpegs, whole, np.zeros(len(jpegs), bool))
        views = [images.to(dtype)]
        if flip:
            views.append(views[0].flip(-1))
        with torch.inference_mode():
            return torch.stack([model(view, [len(jpegs)]) for view in views]).mean(0).float().cpu().numpy()

    return extract


def pooled_features(
    extract: Extractor,
    dataset: Dataset,
    rows: pa.Table,
    *,
    frames: int = 0,
    pooling: Pooling = "mean",
    parts: int = 1,
    batch_images: int = BATCH_IMAGES,
    label: str = "features",
) -> np.ndarray:
    """Mean or largest features (N * parts, D) float32 of the tracklets in `rows`, over all frames (0) or `frames` evenly spaced ones.

    Args:
        parts: runs of frames, in time order and of equal length as far as possible, that are pooled apart: row n * parts + p is
            part p of tracklet n, NaN where there are fewer frames than parts.

    Raises:
        UserError: a damaged image or shard, with the tracklet's key.
    """
    num_images = int(taken_frames(np.asarray(rows["num_frames"]), frames).sum())
    images = progress(tracklet_images(dataset, rows, frames=frames, parts=parts), label, unit="img", total=num_images)
    return pool(extract, images, rows, frames=frames, pooling=pooling, parts=parts, batch_images=batch_images)


def pool(
    extract: Extractor,
    images: Iterator[tuple[int, bytes]],
    rows: pa.Table,
    *,
    frames: int = 0,
    pooling: Pooling = "mean",
    parts: int = 1,
    batch_images: int = BATCH_IMAGES,
) -> np.ndarray:
    """`pooled_features` of images as `tracklet_images` gives them."""
    counts = part_sizes(np.asarray(rows["num_frames"]), frames=frames, parts=parts).ravel()
    total = np.zeros((0, 0), np.float32)
    join = np.add if pooling == "mean" else np.maximum
    for owners, jpegs in _batches(images, batch_images):
        features = _extract(extract, jpegs, owners // parts, rows)
        if not total.size:
            total = np.full((len(counts), features.shape[1]), 0 if pooling == "mean" else -np.inf, np.float32)
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        own = owners[first]
        total[own] = join(total[own], join.reduceat(features, first, axis=0))
    total[counts == 0] = np.nan
    return total / np.maximum(counts, 1)[:, None].astype(np.float32) if pooling == "mean" else total


def taken_frames(num_frames: np.ndarray, wanted: int) -> np.ndarray:
    """How many frames `evenly_spaced` gives of tracklets of `num_frames` (N,) frames."""
    return np.minimum(num_frames, wanted) if wanted else num_frames


def unit_length(features: np.ndarray) -> np.ndarray:
    """Features (N, D) divided by their L2 norm; one that is zero stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def part_sizes(num_frames: np.ndarray, *, frames: int, parts: int) -> np.ndarray:
    """Frames (N, parts) in each part of tracklets of `num_frames` (N,) frames, of which all (0) or `frames` are taken."""
    taken = taken_frames(num_frames, frames)
    edges = -(-taken[:, None].astype(np.int64) * np.arange(parts + 1) // parts)
    return np.diff(edges, axis=1)


def best_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def evenly_spaced(num_frames: int, wanted: int) -> np.ndarray:
    """Positions of `wanted` frames in the middles of equal parts of 0..num_frames-1; 0 or more than there are: all."""
    if not 0 < wanted < num_frames:
        return np.arange(num_frames)
    return (2 * np.arange(wanted) + 1) * num_frames // (2 * wanted)


def tracklet_images(
    dataset: Dataset, rows: pa.Table, *, frames: int = 0, parts: int = 1
) -> Iterator[tuple[int, bytes]]:
    """Position in `rows` * parts + part, and encoded image, of every frame, tracklet after tracklet."""
    from taudl_dist.dataset import TrackletReader

    reader = TrackletReader(dataset)
    num_frames, *extent = (np.asarray(rows[name]).tolist() for name in ("num_frames", "shard", "offset", "length"))
    for position, jpegs in enumerate(reader.stream(zip(*extent))):
        if len(jpegs) != num_frames[position]:
            raise UserError(
                f"tracklet {rows['key'][position]} has {len(jpegs)} images in its shard, but {num_frames[position]} in the manifest;"
                " run `taudl validate`, then make the dataset again"
            )
        taken = evenly_spaced(len(jpegs), frames)
        for place, frame in enumerate(taken):
            yield position * parts + place * parts // len(taken), jpegs[frame]


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
