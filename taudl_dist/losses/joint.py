"""The joint objective (Eq. 4), as one rank's share of it: the shares of all ranks add up to the loss of the global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from taudl_dist.config import LossConfig
from taudl_dist.losses.ccta import ccta_rows, tracklet_means
from taudl_dist.losses.pctd import Head, as_joint_labels, pctd_sum, sample_weights


@dataclass(frozen=True, kw_only=True)
class Share:
    """Scalars: this rank's part of each term."""

    loss: torch.Tensor
    pctd: torch.Tensor
    ccta: torch.Tensor


def joint_share(
    features: torch.Tensor,
    cameras: torch.Tensor,
    labels: torch.Tensor,
    tracklets: torch.Tensor,
    *,
    heads: Mapping[int, Head],
    own_tracklets: slice,
    label_offsets: torch.Tensor,
    config: LossConfig,
) -> Share:
    """(1 - lambda) * PCTD over the samples of the heads given + lambda * CCTA over the own tracklets, each over global counts.

    Args:
        features: (B, D) of the global batch, all ranks' rows in order.
        cameras, labels, tracklets: (B,) int64 of the global batch.
        heads: the heads this rank owns.
        own_tracklets: this rank's rows among the N tracklets of the global batch, in ascending order of their ids.
        label_offsets: (T,) int64, labels of all cameras before each; used by `joint_labels`.
        config: lambda and the terms' settings.

    Raises:
        UserError: CCTA is asked for with fewer than two cameras in the batch.
    """
    lam = config.ccta_weight
    weights = sample_weights(cameras, reduction=config.pctd_reduction)
    head_of, label = as_joint_labels(cameras, labels, label_offsets) if config.joint_labels else (cameras, labels)
    pctd = pctd_sum(features, head_of, label, heads, weights)
    ccta = torch.zeros_like(pctd)
    if lam > 0:
        means, ids = tracklet_means(features, tracklets)
        camera_of = cameras.new_empty(len(ids)).scatter_(0, torch.searchsorted(ids, tracklets), cameras)
        per_tracklet = ccta_rows(
            means,
            camera_of,
            own_tracklets,
            num_neighbours=config.num_neighbours or None,
            sigma=config.sigma,
            squared=config.squared,
            detach_numerator=config.detach_numerator,
        )
        ccta = per_tracklet.sum() / len(means)
    return Share(loss=(1 - lam) * pctd + lam * ccta, pctd=pctd.detach(), ccta=ccta.detach())
