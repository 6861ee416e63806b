"""The classification branches (Fig. 1b): one linear layer for each camera's labels, those of one rank packed into one matrix.

Packed, a head costs its rows and nothing else: 5,000 heads are as quick to hold, step and save as 50 of the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

_WEIGHT_STD = 0.001  # the released code's


class CameraHeads:
    """The heads a rank holds; the initial weights of a head depend on (seed, camera) alone.

    Args:
        label_counts: camera -> M_t, for all cameras.
        feature_dim: D.
        seed: of the run.
        held: the cameras whose heads live here, in the order of their rows.
    """

    def __init__(
        self,
        label_counts: Mapping[int, int],
        feature_dim: int,
        *,
        seed: int,
        held: Iterable[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows: dict[int, slice] = {}
        """Camera -> its rows."""
        total = 0
        for camera in held:
            self.rows[camera] = slice(total, total := total + label_counts[camera])
        self.weight = torch.empty(total, feature_dim, device=device, dtype=dtype)
        """(R, D), R labels of all cameras held."""
        self.bias = torch.zeros(total, device=device, dtype=dtype)
        """(R,)."""
        for camera, rows in self.rows.items():
            generator = torch.Generator().manual_seed((seed * 1_000_003 + camera + 1) % 2**63)
            start = torch.empty(label_counts[camera], feature_dim)
            self.weight[rows] = start.normal_(0, _WEIGHT_STD, generator=generator).to(device, dtype)

    def leaves(self, cameras: Iterable[int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Camera -> weight (M_t, D) and bias (M_t,) of heads held: views that collect a gradient of their own.

        A gradient of the packed matrix would be as large as all heads; that of a view is as large as its head.
        """
        return {
            camera: (self.weight[self.rows[camera]].requires_grad_(), self.bias[self.rows[camera]].requires_grad_())
            for camera in cameras
        }
