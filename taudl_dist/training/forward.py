"""The network's features of a batch, and the way back: in one pass, or in two for batches whose activations do not fit.

Two passes compute the features without a graph, and once the loss has given their gradient, each group again with one: the memory of
activations is that of one group. A group is the unit of batch norm, so the numbers stay the same; the price is a second forward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from taudl_dist.batches import Batch
from taudl_dist.model.batch_norm import forget_statistics

if TYPE_CHECKING:
    from taudl_dist.training.step import Learner

Back = Callable[[torch.Tensor], None]
"""Takes the gradient (B, D) of the features; afterwards the network's parameters have theirs, averaged over ranks."""


def forward(learner: Learner, batch: Batch) -> tuple[torch.Tensor, Back]:
    """Features (B, D) of this rank's images, and their way back."""
    if learner.config.parallel.two_pass:
        return _two_passes(learner, batch)
    features = learner.embed(learner.network, batch.images, batch.group_sizes)
    return features, features.backward


def _two_passes(learner: Learner, batch: Batch) -> tuple[torch.Tensor, Back]:
    groups = batch.images.split(list(batch.group_sizes))
    with torch.no_grad():
        features = torch.cat([learner.embed(learner.model, group, (len(group),)) for group in groups])
    forget_statistics(learner.model)  # the second pass counts

    def back(gradient: torch.Tensor) -> None:
        for number, (group, part) in enumerate(zip(groups, gradient.split(list(batch.group_sizes)))):
            is_last = number == len(groups) - 1
            with contextlib.nullcontext() if is_last else learner.without_averaging():
                learner.embed(learner.network, group, (len(group),)).backward(part)

    return features, back
