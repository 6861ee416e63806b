"""Which rank computes on which image of a batch, and the exchange that brings the features there, differentiable.

An image's cross entropy needs the head of its camera alone, so its feature travels to the owner of that head and to nobody else: of
B rows a rank sends and receives about B / W, where a gather would bring it all of them. Backward is the same exchange, reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Route:
    """One rank's view of an exchange of rows between all ranks."""

    order: NDArray[np.int64]
    """(B_r,) own rows in the order of their destinations."""
    sent: tuple[int, ...]
    """Rows for every rank."""
    received: tuple[int, ...]
    """Rows from every rank."""
    rows: NDArray[np.int64]
    """Positions in the global batch of the rows received, ascending."""
    moves: bool
    """Whether any row of any rank changes its place; the same on all ranks."""

    @classmethod
    def plan(cls, destinations: NDArray[np.int64], rank_sizes: Sequence[int], rank: int) -> Route:
        """The exchange after which each row is at its destination.

        Args:
            destinations: (B,) a rank for each row of the global batch.
            rank_sizes: rows that every rank has before, in order.
            rank: whose view.
        """
        size = len(rank_sizes)
        origins = np.repeat(np.arange(size), rank_sizes)
        own, rows = destinations[origins == rank], np.flatnonzero(destinations == rank)
        return cls(
            order=np.argsort(own, kind="stable"),
            sent=tuple(np.bincount(own, minlength=size).tolist()),
            received=tuple(np.bincount(origins[rows], minlength=size).tolist()),
            rows=rows,
            moves=bool((destinations != origins).any()),
        )


def exchange(own: torch.Tensor, route: Route) -> torch.Tensor:
    """The rows that are bound for this rank, in the order of `route.rows`: (B_r, ...) -> (len(route.rows), ...).

    A collective, unless nothing moves: then the identity.
    """
    if not route.moves:
        return own
    order = torch.from_numpy(route.order).to(own.device, non_blocking=True)
    return _Exchange.apply(own[order], route.sent, route.received)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, sent: tuple[int, ...], received: tuple[int, ...]) -> torch.Tensor:
        ctx.sent, ctx.received = sent, received
        return _all_to_all(own, sent, received)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _all_to_all(gradient, ctx.received, ctx.sent), None, None


def _all_to_all(rows: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
    result = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(result, rows.contiguous(), list(received), list(sent))
    return result
