"""Cross-Camera Tracklet Association (Sect. 3.2 II, Eq. 3): pull the nearest tracklets of other cameras, push all others.

    L_i = logsumexp_j(-d_ij / 2 sigma^2) - logsumexp_{k in N_i}(-d_ik / 2 sigma^2)

j runs over every tracklet of the batch, i itself included; N_i are the K nearest tracklets of all other cameras together. In this
form nothing underflows, whatever the scale of the features. Computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from taudl_dist.errors import UserError

_NEAR = 0.01
"""Share of |a|^2 + |b|^2 below which |a - b|^2 counts as cancelled: the matrix product then keeps two digits less."""


def ccta_loss(
    tracklet_features: torch.Tensor,
    cameras: torch.Tensor,
    *,
    num_neighbours: int | None = None,
    sigma: float = 2.0,
    squared: bool = False,
    detach_numerator: bool = False,
) -> torch.Tensor:
    """Mean of Eq. 3 over the tracklets of a batch.

    Args:
        tracklet_features: (N, D), s of Eq. 3; see `tracklet_means`.
        cameras: (N,) int64, any integers; at least two different ones.
        num_neighbours: K; None takes max(1, cameras // 2). Where other cameras have fewer than K tracklets, all are taken.
        sigma: scale of exp(-d / (2 sigma^2)).
        squared: square the distance; Eq. 3 does not.
        detach_numerator: do not differentiate the pull. What is left repels everything, as in the authors' released code.

    Returns:
        Scalar.

    Raises:
        UserError: fewer than two cameras; a num_neighbours below 1, or a sigma not above 0.
    """
    rows = ccta_rows(
        tracklet_features,
        cameras,
        slice(None),
        num_neighbours=num_neighbours,
        sigma=sigma,
        squared=squared,
        detach_numerator=detach_numerator,
    )
    return rows.mean()


def ccta_rows(
    tracklet_features: torch.Tensor,
    cameras: torch.Tensor,
    rows: slice,
    *,
    num_neighbours: int | None = None,
    sigma: float = 2.0,
    squared: bool = False,
    detach_numerator: bool = False,
) -> torch.Tensor:
    """Eq. 3 of the tracklets in `rows` alone (R,), against all N; arguments as in `ccta_loss`.

    Where `cameras` lie in the memory of the CPU, they are counted there and no GPU is waited for.
    """
    num_cameras = len(cameras.unique())
    if num_cameras < 2:
        raise UserError(
            f"CCTA found {num_cameras} camera{'s' * (num_cameras != 1)} in the batch and needs two or more to associate"
            " tracklets across; with one camera train with --recipe pctd"
        )
    if num_neighbours is not None and num_neighbours < 1:
        raise UserError(f"num_neighbours is {num_neighbours}; expected None or at least 1")
    if not sigma > 0:
        raise UserError(f"sigma is {sigma}; expected a number above 0")
    with torch.autocast(tracklet_features.device.type, enabled=False):
        features = tracklet_features.to(torch.promote_types(tracklet_features.dtype, torch.float32))
        cameras = cameras.to(features.device, non_blocking=True)
        distances = _Distances.apply(features, rows, squared)
        is_other = cameras[rows, None] != cameras
        neighbours = min(num_neighbours or max(1, num_cameras // 2), len(cameras))
        nearest = distances.detach().masked_fill(~is_other, torch.inf).topk(neighbours, dim=1, largest=False).indices
        logits = -distances / (2 * sigma**2)
        pulled = logits.gather(1, nearest).masked_fill(~is_other.gather(1, nearest), -torch.inf).logsumexp(1)
        return logits.logsumexp(1) - (pulled.detach() if detach_numerator else pulled)


def tracklet_means(features: torch.Tensor, tracklets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean feature of each tracklet's images in the batch, s of Eq. 3.

    Args:
        features: (B, D).
        tracklets: (B,) int64, any integers, in any order.

    Returns:
        Means (N, D), in float32 at least, and the unique ids (N,) in ascending order.
    """
    ids, position, counts = tracklets.unique(return_inverse=True, return_counts=True)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    sums = features.new_zeros(len(ids), features.shape[1]).index_add(0, position, features)
    return sums / counts[:, None], ids


class _Distances(torch.autograd.Function):
    """Euclidean distances (R, N) of the features in `rows` to all N; exact near zero, where the gradient is 0.

    |a|^2 - 2ab + |b|^2 is one matrix product where |a - b|^2 moves N^2 D numbers, but it cancels for near pairs: those, a tracklet
    with itself among them, are subtracted one by one, here and in the gradient.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, rows: slice, squared: bool) -> torch.Tensor:
        centred = features - features.mean(0)  # distances stay, but the mean is most of the norm
        sizes = centred.square().sum(1)
        scale = sizes[rows, None] + sizes
        result = torch.addmm(scale, centred[rows], centred.T, alpha=-2)
        near = (result <= _NEAR * scale).nonzero()
        for row, column in _pairs(near, width=features.shape[1]):
            result[row, column] = (features[rows][row] - features[column]).square().sum(1)
        if not squared:
            result.sqrt_()
        ctx.rows, ctx.squared = rows, squared
        ctx.save_for_backward(features, centred, result, near)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        features, centred, distances, near = ctx.saved_tensors
        rows = ctx.rows
        slope = 2 * gradient if ctx.squared else (gradient / distances).masked_fill_(distances == 0, 0)
        result = torch.zeros_like(features)
        for row, column in _pairs(near, width=features.shape[1]):
            force = slope[row, column, None] * (features[rows][row] - features[column])
            result[rows].index_add_(0, row, force)
            result.index_add_(0, column, force, alpha=-1)
        slope[near.unbind(1)] = 0
        result[rows] += slope.sum(1)[:, None] * centred[rows] - slope @ centred
        result += slope.sum(0)[:, None] * centred - slope.T @ centred[rows]
        return result, None, None


def _pairs(pairs: torch.Tensor, *, width: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The two columns of pairs (P, 2), in parts whose differences (part, width) are 16 million numbers at most."""
    return (part.unbind(1) for part in pairs.split(max(1, 2**24 // width)))
