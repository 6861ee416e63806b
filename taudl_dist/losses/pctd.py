"""Per-Camera Tracklet Discrimination (Sect. 3.2 I, Eq. 1-2): one softmax classifier over each camera's own tracklet labels.

Pure functions on tensors; they know nothing of ranks. A rank that owns some of the heads sums over their samples alone, and the
sums of all ranks add up to Eq. 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from taudl_dist.errors import UserError

Head = tuple[torch.Tensor, torch.Tensor | None]
"""Weight (M_t, D) and bias (M_t,) or None of one camera's classifier."""


def pctd_loss(
    features: torch.Tensor, cameras: torch.Tensor, labels: torch.Tensor, heads: Mapping[int, Head]
) -> torch.Tensor:
    """Mean cross entropy of a batch, each sample against the labels of its own camera (Eq. 2).

    Args:
        features: (B, D); computed in float32 at least.
        cameras: (B,) int64, any integers.
        labels: (B,) int64, 0..M_t-1 within the sample's camera.
        heads: camera -> (weight (M_t, D), bias (M_t,) or None).

    Returns:
        Scalar.

    Raises:
        UserError: an empty batch, a camera without a head, or a label outside its head.
    """
    if not len(features):
        raise UserError("pctd_loss got an empty batch; expected at least one feature")
    missing = sorted(set(cameras.tolist()) - set(heads))
    if missing:
        raise UserError(
            f"camera {missing[0]} has samples in the batch but no head; heads are there for {sorted(heads)[:10]}"
        )
    return pctd_sum(features, cameras, labels, heads, sample_weights(cameras, reduction="mean"))


def pctd_sum(
    features: torch.Tensor,
    cameras: torch.Tensor,
    labels: torch.Tensor,
    heads: Mapping[int, Head],
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of Eq. 1 over the samples whose camera is in `heads`; weights (B,), the rest as in `pctd_loss`."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    total = features[:0].sum(dtype=dtype)  # zero, but in the graph: a rank may own no head of this batch
    for camera in sorted(set(cameras.tolist()) & set(heads)):
        weight, bias = heads[camera]
        rows = (cameras == camera).nonzero().squeeze(1)
        target = labels[rows]
        lowest, highest = target.min().item(), target.max().item()
        if lowest < 0 or highest >= len(weight):
            wrong = lowest if lowest < 0 else highest
            raise UserError(
                f"label {wrong} of camera {camera} is outside its head, which has labels 0..{len(weight) - 1}"
            )
        with torch.autocast(features.device.type, enabled=False):
            logits = F.linear(features[rows].to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
            losses = F.cross_entropy(logits, target, reduction="none")
        total = total + (losses * weights[rows].to(dtype)).sum()
    return total


def sample_weights(cameras: torch.Tensor, *, reduction: Literal["mean", "camera_sum"]) -> torch.Tensor:
    """(B,) float64 weights of the samples of a global batch.

    `mean` is Eq. 2: 1 / N_bs. `camera_sum` is the released code: 1 / (samples of the camera), so that each camera's mean counts
    fully and the sum is T times Eq. 2 when cameras are balanced.
    """
    if reduction == "mean":
        return torch.full((len(cameras),), 1 / len(cameras), dtype=torch.float64, device=cameras.device)
    _, camera_of, counts = cameras.unique(return_inverse=True, return_counts=True)
    return counts.double().reciprocal()[camera_of]


def as_joint_labels(
    cameras: torch.Tensor, labels: torch.Tensor, offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The one label space of the JCC baseline (Table 4): camera 0 for all, and label + offsets[camera].

    Args:
        cameras, labels: (B,) int64.
        offsets: (T,) int64, number of labels of all cameras before each.
    """
    return torch.zeros_like(cameras), labels + offsets[cameras]
