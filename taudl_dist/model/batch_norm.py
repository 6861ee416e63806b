"""Batch norm whose statistics do not depend on the number of workers.

`group`: each group of the batch (a camera's visit, or an equal part of it) is normalised by its own statistics. `sync`: the whole
global batch by one statistic, summed over ranks (torch.nn.SyncBatchNorm refuses CPU tensors). Running statistics move once a step
by the mean over all groups of all ranks, so that they are equal everywhere and favour no group; `update_running_statistics` does
that with one small all-reduce. Parameters and buffers have the names of torch.nn.BatchNorm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from taudl_dist.errors import UserError

_ALONE = 32
"""Images from which a GPU is busy with a group for longer than the host takes to ask for it (estimated for an H100 and ResNet-50).
Smaller groups share one call at the price of two copies of the activations, of which a compiler saves one and merges all. On a CPU
groups one by one are faster (measured: 3 to 7 times, for the cache)."""


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
        runs = _runs(sizes, is_merged=torch.compiler.is_compiling() or (x.is_cuda and max(sizes) < _ALONE))
        parts = x.split([groups * size for groups, size in runs])
        normalised, means, variances = zip(
            *(
                _normalise(part, self.weight, self.bias, groups=groups, eps=self.eps)
                for part, (groups, _) in zip(parts, runs)
            )
        )
        self._remember(torch.cat(means).sum(0), torch.cat(variances).sum(0), len(sizes))
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
        self._remember(mean.detach(), variance.detach() * count / (count - 1), 1)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, means: torch.Tensor, variances: torch.Tensor, groups: int) -> None:
        sums = torch.cat([means, variances, means.new_full((1,), groups)])
        self.pending = sums if self.pending is None else self.pending + sums


def _runs(sizes: Sequence[int], *, is_merged: bool) -> list[tuple[int, int]]:
    """Number of groups and images of each, for the groups that are normalised in one call."""
    if is_merged:
        return [(len(list(run)), size) for size, run in itertools.groupby(sizes)]
    return [(1, size) for size in sizes]


def _normalise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch norm of G groups of equal size in one call: image k of all groups becomes one image of G * C channels.

    Args:
        x: (G * m, C) or (G * m, C, H, W).

    Returns:
        The result, and the groups' means and unbiased variances, (G, C) each.
    """
    mean, variance = (weight.new_zeros(groups * len(weight)) for _ in range(2))
    if groups > 1:
        x = x.movedim(1, -1).unflatten(0, (groups, -1)).movedim(0, -2).flatten(-2).movedim(-1, 1)
        weight, bias = weight.repeat(groups), bias.repeat(groups)
    # momentum 1: torch leaves mean and unbiased variance in the two tensors
    y = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, eps)
    if groups > 1:
        y = y.movedim(1, -1).unflatten(-1, (groups, -1)).movedim(-2, 0).flatten(0, 1).movedim(-1, 1)
    return y, mean.view(groups, -1), variance.view(groups, -1)


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


def forget_statistics(model: nn.Module) -> None:
    """Drops what the layers have seen since the last update, where a pass is not to count."""
    for layer in batch_norm_layers(model):
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
