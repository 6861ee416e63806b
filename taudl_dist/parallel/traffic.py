"""Bytes that one rank sends in one step, from counts alone: what the collectives of a step move at least, without a network.

A rank receives as much as it sends, on average over the ranks. All-reduce, all-gather and reduce-scatter as the ring that moves the
fewest bytes; rows of features are padded to the longest run of a rank, as `gather` does. What is counted is what
`taudl_dist.training.step` sends; scalars (a norm, a loss) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What the traffic of a step depends on."""

    world_size: int
    """W."""
    parameters: int
    """Of the network all ranks share."""
    statistics: int
    """Numbers of batch norm: 2C + 1 a layer, once a step for `group`, three times for `sync`."""
    feature_dim: int
    """D."""
    rows_to_all: int = 0
    """Means of tracklets that all ranks get from the rank that has most; 0 without CCTA."""
    images_sent: float = 0.0
    """Of a rank, those whose camera's head another rank owns."""
    sought_sent: float = 0.0
    """Of a rank, images sent to seekers (mutual association)."""
    signatures_sent: float = 0.0
    """Of a rank, rows of heads sent back (mutual association)."""
    head_rows: int = 0
    """Labels of the cameras present, if every rank holds all heads."""
    value_bytes: int = 4
    """Of a number: 8 in fp64, else 4."""


def step_traffic(counts: StepCounts) -> dict[str, float]:
    """Bytes a rank sends in a step, by what they are.

    `backbone`: its gradient, summed. `statistics`: batch norm's. `means`: of tracklets to all ranks, and their gradient back (CCTA).
    `features`: of images to the owner of their head, and their gradient back (PCTD). `matches`: images to the owners of
    the heads they are sought in, their gradient back, and rows of heads (mutual association). `heads`: gradient of replicated heads.
    """
    world_size, row = counts.world_size, counts.feature_dim * counts.value_bytes
    return {
        "backbone": all_reduce_bytes(counts.parameters * counts.value_bytes, world_size),
        "statistics": all_reduce_bytes(counts.statistics * counts.value_bytes, world_size),
        "means": 2 * all_gather_bytes(counts.rows_to_all * row, world_size),
        "features": 2 * counts.images_sent * row,
        "matches": (2 * counts.sought_sent + counts.signatures_sent) * row,
        "heads": all_reduce_bytes(counts.head_rows * (row + counts.value_bytes), world_size),
    }


def gathered_traffic(counts: StepCounts, *, images: int) -> dict[str, float]:
    """The same step if every rank got every image's feature and the gradient went back: the simple way, for comparison.

    Args:
        images: on the rank that has most.
    """
    row = counts.feature_dim * counts.value_bytes
    kept = {name: value for name, value in step_traffic(counts).items() if name in ("backbone", "statistics")}
    return {**kept, "features": 2 * all_gather_bytes(images * row, counts.world_size)}


def all_reduce_bytes(size: float, world_size: int) -> float:
    """Sent by each rank to sum `size` bytes over all ranks: a reduce-scatter and an all-gather."""
    return 2 * size * (world_size - 1) / world_size


def all_gather_bytes(own: float, world_size: int) -> float:
    """Sent by each rank for all to have everyone's `own` bytes; a reduce-scatter of as much sends the same."""
    return own * (world_size - 1)


def images_exchanged(
    cameras: NDArray[np.int64], rank_tracklets: Sequence[int], owners: NDArray[np.int64], *, frames: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Images (W,) that each rank sends to another, receives from another, and computes the cross entropy of.

    Args:
        cameras: (N,) of the tracklets of the global batch, in the order of the ranks.
        rank_tracklets: tracklets of each rank.
        owners: rank of each camera's head.
        frames: images of a tracklet.
    """
    world_size = len(rank_tracklets)
    origins, destinations = np.repeat(np.arange(world_size), rank_tracklets), owners[cameras]
    moved = origins != destinations
    sent, received, computed = (
        frames * np.bincount(ranks, minlength=world_size)
        for ranks in (origins[moved], destinations[moved], destinations)
    )
    return sent, received, computed
