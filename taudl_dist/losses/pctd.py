"""Per-Camera Tracklet Discrimination (Sect. 3.2 I, Eq. 1-2): one softmax classifier over each camera's own tracklet labels.

Pure functions on tensors; they know nothing of ranks. A rank that owns some of the heads sums over their samples alone, and the
sums of all ranks add up to Eq. 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    order = cameras.argsort(stable=True)
    present, counts = cameras[order].unique_consecutive(return_counts=True)
    runs = list(zip(present.tolist(), counts.tolist()))
    missing = [camera for camera in present.tolist() if camera not in heads]
    if missing:
        raise UserError(
            f"camera {missing[0]} has samples in the batch but no head; heads are there for {sorted(heads)[:10]}"
        )
    for (camera, _), target in zip(runs, labels[order].split(counts.tolist())):
        outside = [label for label in target.aminmax() if not 0 <= label < len(heads[camera][0])]
        if outside:
            raise UserError(
                f"label {outside[0].item()} of camera {camera} is outside its head, which has labels"
                f" 0..{len(heads[camera][0]) - 1}"
            )
    weights = sample_weights(cameras, reduction="mean")
    return pctd_sum(features[order], labels[order], runs, heads, weights[order])


def pctd_sum(
    features: torch.Tensor,
    labels: torch.Tensor,
    runs: Sequence[tuple[int, int]],
    heads: Mapping[int, Head],
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of Eq. 1 over samples that stand head by head; nothing is read back from a GPU.

    Args:
        features: (B, D), labels (B,), weights (B,).
        runs: (camera, number of samples) of each run, B samples in all.
        heads: as in `pctd_loss`; labels must lie inside.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    if not runs:
        return features.sum(dtype=dtype)  # of no rows: zero, but in the graph, for a rank may own no head of this batch
    counts = [count for _, count in runs]
    with torch.autocast(features.device.type, enabled=False):
        terms = []
        for (camera, _), x, label in zip(runs, features.to(dtype).split(counts), labels.split(counts)):
            weight, bias = heads[camera]
            scores = F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))
            terms.append(F.cross_entropy(scores, label, reduction="none"))
        return torch.cat(terms) @ weights.to(dtype)


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
