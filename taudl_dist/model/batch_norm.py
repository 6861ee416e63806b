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
from torch.autograd.function import once_differentiable

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
        values = x.numel() // x.shape[1]
        if values < 2 and not _has_ranks():  # each rank has an image, so two ranks have two values
            raise UserError(
                f"batch norm found {values} value{'s' * (values != 1)} per channel in the whole batch; it needs two:"
                " raise batch.images"
            )
        normalise = _normalise_eagerly if _has_ranks() else _normalise_globally
        result, mean, variance = normalise(x, self.weight, self.bias, self.eps)
        self._remember(mean, variance, 1)
        return result

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
    if _has_ranks():
        dist.all_reduce(own)
    return own


def _global_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,) and biased variance (C,) of the batches of all ranks together, and their number of values per channel."""
    dims = [dim for dim in range(x.dim()) if dim != 1]
    variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dims, correction=0)
    own_count = mean.new_full((1,), x.numel() // x.shape[1])
    total = _sum_over_ranks(torch.cat([mean * own_count, own_count]))
    count = total[-1]
    global_mean = total[:-1] / count
    # a second sum, of squares about the mean: E[x^2] - E[x]^2 would cancel
    squares = _sum_over_ranks(own_count * (variance + (mean - global_mean).square()))
    return global_mean, squares / count, count


def _normalise_globally(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch norm over the batches of all ranks; the result, and mean and unbiased variance (C,)."""
    mean, variance, count = _global_moments(x.detach())
    result = _GlobalNorm.apply(x, weight, bias, mean, variance, count, eps)
    return result, mean, variance * count / (count - 1)


_normalise_eagerly = torch.compiler.disable(_normalise_globally)
"""For several ranks: torch 2.15 compiles the collective in the backward without a complaint, and the gradient is wrong by 2 %."""


class _GlobalNorm(torch.autograd.Function):
    """Normalises by statistics of all ranks; keeps x alone for backward.

    Every rank's result depends on every rank's x through them, so backward takes the statistics as constants first, and adds what
    passes through them: two sums, over all ranks, that it has as the gradients of bias and weight.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - torch takes no names here
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        shares = _sum_over_ranks(torch.stack([of_weight, of_bias])) / count * weight * (variance + ctx.eps).rsqrt()
        through_statistics = F.batch_norm(x, mean, variance, shares[0], shares[1], False, 0.0, ctx.eps)
        return direct - through_statistics, of_weight, of_bias, None, None, None, None


def set_group_sizes(layout: BatchLayout, group_sizes: Sequence[int], num_images: int) -> None:
    """Tells the layers of a model how the next batch is grouped."""
    if sum(group_sizes) != num_images:
        raise ValueError(
            f"group sizes {tuple(group_sizes)} sum to {sum(group_sizes)}, but the batch has {num_images} images"
        )
    layout.group_sizes = tuple(group_sizes)
