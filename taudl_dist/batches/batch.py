"""What a worker receives for one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's groups of a global batch, decoded, and what it must know of the other workers' shares.

    B images: group by group, tracklet by tracklet, F frames each.
    """

    step: int
    images: torch.Tensor
    """(B, 3, H, W) float32, normalised with ImageNet's mean and standard deviation."""
    cameras: torch.Tensor
    """(B,) int64, index into the dataset's cameras."""
    labels: torch.Tensor
    """(B,) int64, label within the camera."""
    tracklets: torch.Tensor
    """(B,) int64, position of the image's tracklet in the global batch, ascending."""
    group_sizes: tuple[int, ...]
    """Images of each of this worker's groups."""
    rank_images: tuple[int, ...]
    """Images of every worker."""
    rank_tracklets: tuple[int, ...]
    """Tracklets of every worker."""
    total_groups: int
    """Groups of the global batch."""
    num_cameras: int
    """Cameras present in the global batch."""

    @property
    def total_images(self) -> int:
        """N_bs of Eq. 2."""
        return sum(self.rank_images)
