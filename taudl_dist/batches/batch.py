"""What a worker receives for one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taudl_dist.batches.plan import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What stands where in a global batch. Every worker knows it from the plan, so none of it travels between them.

    N tracklets of F images each, camera by camera, in runs of one worker after the other.
    """

    cameras: NDArray[np.int64]
    """(N,) camera of each tracklet, index into the dataset's cameras."""
    labels: NDArray[np.int64]
    """(N,) label of each tracklet within its camera."""
    frames: int
    """F."""
    rank_tracklets: tuple[int, ...]
    """Tracklets of every worker."""

    @classmethod
    def of(cls, layout: Layout, *, world_size: int, frames: int) -> Composition:
        """That of a planned batch, divided among workers."""
        ranks = layout.rank_tracklets(world_size)
        return cls(cameras=layout.cameras, labels=layout.labels, frames=frames, rank_tracklets=ranks)

    @property
    def num_images(self) -> int:
        """N_bs of Eq. 2."""
        return len(self.cameras) * self.frames

    @property
    def rank_images(self) -> tuple[int, ...]:
        """Images of every worker."""
        return tuple(count * self.frames for count in self.rank_tracklets)

    def tracklets_of(self, rank: int) -> slice:
        """Where a worker's tracklets stand among the N."""
        first = sum(self.rank_tracklets[:rank])
        return slice(first, first + self.rank_tracklets[rank])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's groups of a global batch, decoded: group by group, tracklet by tracklet, F images each."""

    step: int
    images: torch.Tensor
    """(B, 3, H, W) float32, normalised with ImageNet's mean and standard deviation."""
    group_sizes: tuple[int, ...]
    """Images of each of this worker's groups."""
    composition: Composition
    """Of the global batch."""
