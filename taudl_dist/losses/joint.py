"""The joint objective (Eq. 4), as one rank's share of it: the shares of all ranks add up to the loss of the global batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from taudl_dist.config import LossConfig
from taudl_dist.losses.ccta import ccta_rows
from taudl_dist.losses.pctd import Head, pctd_sum


@dataclass(frozen=True, kw_only=True)
class Share:
    """Scalars: this rank's part of each term."""

    loss: torch.Tensor
    pctd: torch.Tensor
    ccta: torch.Tensor
    mutual: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Discrimination:
    """The samples that PCTD sees on one rank, head by head."""

    features: torch.Tensor
    """(B, D)."""
    labels: torch.Tensor
    """(B,) int64, label within the head."""
    runs: Sequence[tuple[int, int]]
    """(head, number of samples) of each run."""
    weights: torch.Tensor
    """(B,), see `sample_weights`."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """The tracklets that CCTA compares."""

    means: torch.Tensor
    """(N, D) of the global batch, s of Eq. 3."""
    cameras: torch.Tensor
    """(N,) int64."""
    own: slice
    """This rank's among the N."""


def joint_share(
    discrimination: Discrimination,
    association: Association | None,
    mutual: torch.Tensor | None = None,
    *,
    heads: Mapping[int, Head],
    config: LossConfig,
) -> Share:
    """(1 - lambda) * PCTD over this rank's samples + lambda * CCTA over its own tracklets + mu * mutual
    association of its pairs, each over global counts.

    Args:
        association: None where lambda is 0.
        mutual: this rank's part of mutual association; None where mu is 0, or not yet in force.
        heads: those of the runs.
        config: lambda, mu and the terms' settings.

    Raises:
        UserError: CCTA is asked for with fewer than two cameras in the batch.
    """
    lam = config.ccta_weight
    samples = discrimination
    pctd = pctd_sum(samples.features, samples.labels, samples.runs, heads, samples.weights)
    ccta = torch.zeros_like(pctd)
    if association is not None:
        per_tracklet = ccta_rows(
            association.means,
            association.cameras,
            association.own,
            num_neighbours=config.num_neighbours or None,
            sigma=config.sigma,
            squared=config.squared,
            detach_numerator=config.detach_numerator,
        )
        ccta = per_tracklet.sum() / len(association.means)
    if mutual is None:
        mutual = torch.zeros_like(pctd)
    loss = (1 - lam) * pctd + lam * ccta + config.mutual_weight * mutual
    return Share(loss=loss, pctd=pctd.detach(), ccta=ccta.detach(), mutual=mutual.detach())
