"""Distances between queries and gallery, a tile at a time, never queries x gallery at once.

Tiles are fast and rounded; how far they may be off is known, so that whoever ranks can look at the few close calls again in fp64.
A ranking is then a function of the features alone: not of tile sizes, machines, thread counts or the BLAS at hand.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from taudl_dist.errors import UserError

if TYPE_CHECKING:
    import torch

Metric = Literal["euclidean", "cosine"]

TILE_ELEMENTS = 1 << 22
"""Distances at a time; about 40 bytes of working memory each."""
_GATHERED_ELEMENTS = 1 << 21
"""Feature values of single pairs at a time, in fp64 on both sides."""
_ROUNDING = 2.0**-24


class Distances(Protocol):
    """What a ranking needs to know: (Q, G) distances in tiles, and exactly for single pairs."""

    shape: tuple[int, int]

    def tiles(self, rows: slice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Columns, their distances (rows, columns), and how far these may be off (rows, 1), over the whole gallery."""

    def exact(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Distances (n,) float64 of pairs of a query and a gallery position."""


class MatrixDistances:
    """Distances that someone else has computed: an array (Q, G)."""

    def __init__(self, matrix: np.ndarray) -> None:
        if matrix.ndim != 2:
            raise UserError(f"distances have shape {matrix.shape}, expected a matrix: a row for each query")
        self.matrix = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float64)
        num_nan = int(np.isnan(self.matrix).sum())
        if num_nan:
            raise UserError(f"{num_nan} distances are NaN, expected numbers: look for NaN in the features")
        self.shape = (matrix.shape[0], matrix.shape[1])

    def tiles(self, rows: slice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        import torch

        num_rows = rows.stop - rows.start
        for columns in runs(self.shape[1], TILE_ELEMENTS // max(1, num_rows)):
            tile = torch.from_numpy(np.ascontiguousarray(self.matrix[rows, columns]))
            yield columns, tile, torch.zeros(num_rows, 1, dtype=tile.dtype)

    def exact(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        return self.matrix[query, gallery].astype(np.float64)


class FeatureDistances:
    """Distances of features (Q, D) and (G, D), squared if Euclidean, with tiles on any device.

    The gallery may be a memory-mapped file: it is read from front to back for each block of queries, and otherwise by single rows.
    """

    def __init__(
        self, query: np.ndarray, gallery: np.ndarray, *, metric: Metric = "euclidean", device: str = "cpu"
    ) -> None:
        check_features(query, gallery)
        if metric not in ("euclidean", "cosine"):
            raise UserError(f"metric is {metric!r}, expected 'euclidean' or 'cosine'")
        self.query, self.gallery, self.metric, self.device = query, gallery, metric, device
        self.shape = (len(query), len(gallery))
        self._pair = _squared_distance if metric == "euclidean" else _cosine_distance
        # Distances do not change with the origin, but the rounding of |q|^2 - 2qg + |g|^2 does.
        centre = query.mean(0, dtype=np.float64) if metric == "euclidean" and len(query) else np.zeros(query.shape[1])
        self._centre = centre.astype(np.float32)

    def tiles(self, rows: slice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        import torch

        query, query_squares = self._prepared(self.query[rows])
        _check_finite(query_squares, "query", rows.start)
        num_rows, dim = query.shape
        width = min(TILE_ELEMENTS // max(1, num_rows), 4 * TILE_ELEMENTS // max(1, dim))
        for columns in runs(self.shape[1], width):
            gallery, squares = self._prepared(self.gallery[columns])
            _check_finite(squares, "gallery item", columns.start)
            with _full_precision():
                if self.metric == "cosine":
                    tile = torch.addmm(torch.ones_like(squares), query, gallery.T, alpha=-1)
                else:
                    tile = torch.addmm(squares, query, gallery.T, alpha=-2).add_(query_squares[:, None])
            # Rounding errors of a sum of D products grow as sqrt(D), not D (Higham and Mary, 2019); four times that here.
            scale = (query_squares.sqrt() + squares.max().sqrt()).square()[:, None]
            yield columns, tile, scale * ((8 + 2 * math.sqrt(dim)) * _ROUNDING)

    def exact(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        result = np.empty(len(query))
        for part in runs(len(query), _GATHERED_ELEMENTS // max(1, self.query.shape[1])):
            pair = (self.query[query[part]], self.gallery[gallery[part]])
            result[part] = self._pair(*(side.astype(np.float64) for side in pair))
        return result

    def _prepared(self, features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred or unit rows (n, D) float32 on the device, and their squared lengths (n,)."""
        import torch

        rows = torch.from_numpy(np.array(features, np.float32)).to(self.device)
        if self.metric == "cosine":
            rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        else:
            rows -= torch.from_numpy(self._centre).to(self.device)
        return rows, torch.linalg.vector_norm(rows, dim=1).square()


def distance_blocks(
    query_features: np.ndarray, gallery_features: np.ndarray, *, metric: Metric = "euclidean"
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the distance matrix (Q, G), a bounded number at a time: (slice of queries, their distances, not squared)."""
    distances = FeatureDistances(query_features, gallery_features, metric=metric)
    for rows in runs(len(query_features), TILE_ELEMENTS // max(1, len(gallery_features))):
        block = np.empty((rows.stop - rows.start, len(gallery_features)), np.float32)
        for columns, tile, _ in distances.tiles(rows):
            block[:, columns] = tile.cpu().numpy()
        yield rows, block if metric == "cosine" else np.sqrt(np.maximum(block, 0))


def check_features(query: np.ndarray, gallery: np.ndarray) -> None:
    """Two matrices with rows of one length."""
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query features {query.shape} and gallery features {gallery.shape}: expected two matrices with rows of one length"
        )


def runs(length: int, size: int) -> Iterator[slice]:
    """0..length-1 in consecutive runs of `size`, the last one shorter."""
    size = max(1, size)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def as_array(values: Any) -> np.ndarray:
    """A tensor of any device or an array-like as an array."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()  # numpy has no bfloat16


def _check_finite(squares: torch.Tensor, side: str, start: int) -> None:
    is_broken = ~squares.isfinite()
    if is_broken.any():
        raise UserError(
            f"the features of {side} {start + int(is_broken.nonzero()[0])} hold NaN or infinity, or values too large to"
            " square, expected numbers: the model has diverged"
        )


def _squared_distance(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return np.square(query - gallery).sum(1)


def _cosine_distance(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """A row of zeros is at distance 1 from everything."""
    lengths = np.sqrt(np.square(query).sum(1) * np.square(gallery).sum(1))
    return 1 - (query * gallery).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """fp32 products, also where training allows TF32 or bfloat16: the bound of the rounding is that of fp32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
