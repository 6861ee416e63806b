"""The classification branches (Fig. 1b): one linear layer for each camera's labels, kept by the rank that owns it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

_WEIGHT_STD = 0.001  # the released code's


class CameraHeads(nn.Module):
    """The heads a rank owns; the initial weights of a head depend on (seed, camera) alone.

    Args:
        label_counts: camera -> M_t, for all cameras.
        feature_dim: D.
        seed: of the run.
        owned: the cameras whose heads live here.
    """

    def __init__(self, label_counts: Mapping[int, int], feature_dim: int, *, seed: int, owned: Iterable[int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for camera in owned:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + camera + 1) % 2**63)
            weight = torch.empty(label_counts[camera], feature_dim)
            self.weights[str(camera)] = nn.Parameter(weight.normal_(0, _WEIGHT_STD, generator=generator))
            self.biases[str(camera)] = nn.Parameter(torch.zeros(label_counts[camera]))

    def mapping(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Camera -> (weight (M_t, D), bias (M_t,)) of the heads owned."""
        return {int(camera): (weight, self.biases[camera]) for camera, weight in self.weights.items()}
