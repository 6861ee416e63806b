"""Mutual association (ours, not the paper's): a tracklet is pulled to the label of another camera that finds it back.

Eq. 3 looks for neighbours among the tracklets of a batch, where a true match is rare. A head of PCTD holds one row of weights for every
tracklet of its camera, so the match is sought there, and counts only if both sides agree. For tracklet i, which has label l in camera
a, and another camera b:

    j = argmax_k (W_b s_i + c_b)_k                               what i looks most like in b
    i finds back if l = argmax_k cos(W_b[j] - mean W_b, W_a[k] - mean W_a)
    L = 1/P * sum over the pairs (i, b) that find back of the mean over i's images x of -log softmax_j (W_b x + c_b)

with P pairs (i, b) in all.

Pure functions on tensors; `taudl_dist.training.mutual` brings the sides together where heads lie on several ranks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray

from taudl_dist.losses.pctd import Head


def sought_pairs(cameras: NDArray[np.int64], *, step: int, at_most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a step: each tracklet of the batch, and other cameras present in which its match is sought.

    Args:
        cameras: (N,) of the tracklets of the global batch.
        step: turns through the cameras, so that all have their turn where there are more than `at_most` others.
        at_most: other cameras for one tracklet.

    Returns:
        Tracklets (P,), positions in the batch, and cameras (P,).
    """
    present, position = np.unique(cameras, return_inverse=True)
    others = len(present) - 1
    count = min(at_most, others)
    offsets = 1 + (step * count + np.arange(count)) % max(1, others)
    sought = present[(position[:, None] + offsets) % len(present)]
    return np.repeat(np.arange(len(cameras)), count), sought.ravel().astype(np.int64)


@torch.no_grad()
def seek(means: torch.Tensor, head: Head) -> torch.Tensor:
    """The labels (n,) of a camera that tracklets of others look most like.

    Args:
        means: (n, D) of the tracklets.
        head: the camera's.
    """
    return _scores(means, head).argmax(1)


def pull(features: torch.Tensor, labels: torch.Tensor, head: Head) -> torch.Tensor:
    """Cross entropy (n,) of tracklets against labels of another camera, the mean over their images; in float32 at least.

    Args:
        features: (n, F, D).
        labels: (n,).
        head: that camera's.
    """
    scores = _scores(features.flatten(0, 1), head)
    loss = F.cross_entropy(scores, labels.repeat_interleave(features.shape[1]), reduction="none")
    return loss.unflatten(0, (-1, features.shape[1])).mean(1)


@torch.no_grad()
def signatures(head: Head, labels: torch.Tensor) -> torch.Tensor:
    """What tells labels (n,) of a camera from its others: their weights without the mean of all, (n, D)."""
    weight = head[0]
    return weight[labels] - weight.mean(0)


@torch.no_grad()
def find_back(rows: torch.Tensor, head: Head) -> torch.Tensor:
    """The label (n,) of this camera whose signature has the largest cosine with each row.

    Args:
        rows: (n, D) signatures of another camera.
        head: this camera's; -1 is returned where it has fewer than two labels, for then nothing can be told.
    """
    weight = head[0]
    if len(weight) < 2:
        return torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    # cos with W - mean, without a second copy of W: a head may be the largest tensor there is
    mean = weight.mean(0)
    square = torch.linalg.vector_norm(weight, dim=1).square() - 2 * (weight @ mean) + mean @ mean
    towards = F.linear(rows, weight) - (rows @ mean)[:, None]
    return (towards / square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()).argmax(1)


def _scores(features: torch.Tensor, head: Head) -> torch.Tensor:
    dtype = torch.promote_types(features.dtype, torch.float32)
    weight, bias = head
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
