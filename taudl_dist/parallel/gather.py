"""Rows of all ranks on every rank, differentiable.

Each rank's loss is its share of the global loss, so the gradient of the global loss to a row is the SUM over ranks of the gradients
of their shares: backward is a reduce-scatter sum, nothing else. What DistributedDataParallel's average needs is no affair of this
module; the step sees to it in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

# torch renamed the public collectives; the old names warn since 2.13
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gather(own: torch.Tensor, rank_sizes: Sequence[int]) -> torch.Tensor:
    """Concatenates the rows of all ranks; own (B_r, ...) -> (sum of rank_sizes, ...). With one rank: identity.

    Args:
        own: this rank's rows, rank_sizes[rank] of them.
        rank_sizes: rows of every rank, the same on all ranks.
    """
    if len(rank_sizes) == 1:
        return own
    assert len(own) == rank_sizes[dist.get_rank()], f"{len(own)} rows, but the plan of sizes is {tuple(rank_sizes)}"
    return _Gather.apply(own, tuple(rank_sizes))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, rank_sizes: tuple[int, ...]) -> torch.Tensor:
        ctx.rank_sizes = rank_sizes
        longest = max(rank_sizes)  # collectives need equal rows: runs may differ by one group
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        everyone = own.new_empty(longest * len(rank_sizes), *own.shape[1:])
        _all_gather(everyone, padded)
        return torch.cat([part[:size] for part, size in zip(everyone.split(longest), rank_sizes)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        sizes, longest = ctx.rank_sizes, max(ctx.rank_sizes)
        padded = gradient.new_zeros(len(sizes), longest, *gradient.shape[1:])
        for rank, part in enumerate(gradient.split(list(sizes))):
            padded[rank, : sizes[rank]] = part
        own = gradient.new_empty(longest, *gradient.shape[1:])
        _reduce_scatter(own, padded.flatten(0, 1))
        return own[: sizes[dist.get_rank()]], None
