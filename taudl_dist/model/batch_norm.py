"""Batch norm whose statistics do not depend on the number of workers.

`group`: each group of the batch (a camera's visit, or an equal part of it) is normalised by its own statistics. `sync`: the whole
global batch by one statistic, summed over ranks (torch.nn.SyncBatchNorm refuses CPU tensors). Running statistics move once a step
by the mean over all groups of all ranks, so that they are equal everywhere and favour no group; `update_running_statistics` does
that with one small all-reduce. Parameters and buffers have the names of torch.nn.BatchNorm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from taudl_dist.errors import UserError


@dataclass
class BatchLayout:
    """How the images now in the network are grouped; one object shared by all layers of a model."""

    mode: str
    """`group` or `sync`."""
    group_sizes: tuple[int, ...] = ()
    """Images of each group, in order."""


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch.nn.BatchNorm1d and 2d with statistics of groups, or of the global batch; in eval mode it is torch's."""

    layout: BatchLayout
    running_mean: torch.Tensor  # torch allows None, for layers without statistics or parameters
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def __init__(self, num_features: int, layout: BatchLayout, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.layout = layout
        self.pending: torch.Tensor | None = None
        """(2C + 1,): sums over groups of mean and unbiased variance, and the number of groups, since the last update."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected (B, C) or (B, C, H, W), got {tuple(input.shape)}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises x (B, C) or (B, C, H, W); in training over the groups of `layout`."""
        if not self.training:
            return super().forward(x)
        return self._over_all_ranks(x) if self.layout.mode == "sync" else self._over_groups(x)

    def _over_groups(self, x: torch.Tensor) -> torch.Tensor:
        sizes = self.layout.group_sizes or (len(x),)
        values = math.prod(x.shape[2:])
        if min(sizes) * values < 2:
            raise UserError(
                f"batch norm found a group of {min(sizes)} image{'s' * (min(sizes) != 1)} in a layer of one value per channel; it needs two:"
                " raise batch.frames, lower batch.groups_per_camera, or set model.batch_norm=sync"
            )
        normalised = []
        for group in x.split(list(sizes)):
            mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
            # momentum 1: torch leaves the group's mean and unbiased variance in the two tensors
            normalised.append(F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            self._remember(mean, variance)
        return torch.cat(normalised) if len(normalised) > 1 else normalised[0]

    def _over_all_ranks(self, x: torch.Tensor) -> torch.Tensor:
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        values = x.numel() // x.shape[1]
        if values < 2 and not _has_ranks():  # each rank has an image, so two ranks have two values
            raise UserError(
                f"batch norm found {values} value{'s' * (values != 1)} per channel in the whole batch; it needs two:"
                " raise batch.images"
            )
        total = _sum_over_ranks(torch.cat([wide.sum(dims), wide.new_full((1,), values)]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean.view(shape)
        # a second sum, of squares about the mean: E[x^2] - E[x]^2 would cancel
        variance = _sum_over_ranks(centred.square().sum(dims)) / count
        scale = (variance + self.eps).rsqrt() * self.weight
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        group = torch.cat([mean, variance, mean.new_ones(1)])
        self.pending = group if self.pending is None else self.pending + group


def update_running_statistics(model: nn.Module, *, world_size: int = 1) -> None:
    """Moves the running statistics of all layers by the mean over all groups of all ranks since the last call.

    A collective: one all-reduce of 2C + 1 numbers a layer, in one vector.
    """
    waiting = {layer: layer.pending for layer in batch_norm_layers(model) if layer.pending is not None}
    if not waiting:
        return
    pending = torch.cat(list(waiting.values()))
    if world_size > 1:
        dist.all_reduce(pending)
    for layer, sums in zip(waiting, pending.split([len(sums) for sums in waiting.values()])):
        mean, variance = (sums[:-1] / sums[-1]).chunk(2)
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance, layer.momentum)
        layer.num_batches_tracked.add_(1)
        layer.pending = None


def convert_batch_norm(module: nn.Module, layout: BatchLayout) -> nn.Module:
    """Replaces every torch.nn.BatchNorm1d and 2d below `module` by a GroupBatchNorm with the same parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            assert child.momentum is not None  # torch's cumulative average
            group = GroupBatchNorm(child.num_features, layout, eps=child.eps, momentum=child.momentum)
            group.load_state_dict(child.state_dict())
            setattr(module, name, group)
        else:
            convert_batch_norm(child, layout)
    return module


def batch_norm_layers(model: nn.Module) -> Iterator[GroupBatchNorm]:
    """The layers of a model that have running statistics."""
    return (layer for layer in model.modules() if isinstance(layer, GroupBatchNorm))


def _has_ranks() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _sum_over_ranks(own: torch.Tensor) -> torch.Tensor:
    return _AllReduce.apply(own) if _has_ranks() else own


class _AllReduce(torch.autograd.Function):
    """Sum over ranks; every rank's result depends on every rank's input, so the gradient is summed over ranks too."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - torch's signature
        total = own.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def set_group_sizes(layout: BatchLayout, group_sizes: Sequence[int], num_images: int) -> None:
    """Tells the layers of a model how the next batch is grouped."""
    if sum(group_sizes) != num_images:
        raise ValueError(
            f"group sizes {tuple(group_sizes)} sum to {sum(group_sizes)}, but the batch has {num_images} images"
        )
    layout.group_sizes = tuple(group_sizes)
