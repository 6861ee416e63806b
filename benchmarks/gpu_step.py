"""A batch without a loader: the composition of a real plan, random pixels."""

from __future__ import annotations

import torch

from taudl_dist.batches import Batch, BatchPlan, Composition


def make_batch(plan: BatchPlan, device: torch.device, *, step: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch of one worker, drawn on the CPU so that it is the same everywhere."""
    groups, layout = plan.share(step, rank=0, world_size=1)
    size = plan.config.batch
    generator = torch.Generator().manual_seed(step)
    shape = (sum(group.num_images for group in groups), 3, size.height, size.width)
    images = torch.randn(shape, generator=generator, dtype=dtype).to(device)
    return Batch(
        step=step,
        images=images,
        group_sizes=tuple(group.num_images for group in groups),
        composition=Composition.of(layout, world_size=1, frames=size.frames),
    )
