"""The norm of the whole gradient, and clipping by it: backbone gradients are equal on all ranks, heads live on one rank each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist


def global_norm(
    replicated: Iterable[torch.Tensor], owned: Iterable[torch.Tensor], *, world_size: int = 1
) -> torch.Tensor:
    """Euclidean norm of the gradients of the replicated parameters and of every rank's owned ones; a scalar.

    Parameters without a gradient count nothing. A collective: one small all-reduce where world_size > 1.
    """
    replicated, owned = list(replicated), list(owned)
    everywhere, here = _square(replicated, replicated[0]), _square(owned, replicated[0])
    if world_size > 1:
        dist.all_reduce(here)
    return (everywhere + here).sqrt()


@torch.no_grad()
def clip_by_global_norm(
    replicated: Iterable[torch.Tensor], owned: Iterable[torch.Tensor], max_norm: float, *, world_size: int = 1
) -> torch.Tensor:
    """Scales all gradients down so that their global norm is at most `max_norm`; returns the norm before."""
    replicated, owned = list(replicated), list(owned)
    norm = global_norm(replicated, owned, world_size=world_size)
    scale = (max_norm / norm).clamp(max=1.0)
    for parameter in (*replicated, *owned):
        if parameter.grad is not None:
            parameter.grad.mul_(scale.to(parameter.grad.dtype))
    return norm


def _square(parameters: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    if not norms:
        return torch.zeros((), dtype=torch.float64, device=like.device)
    return torch.stack(norms).double().square().sum()
