"""Mutual association among the workers: the owner of a camera's head seeks there, the owner of the tracklet's own says what finds back.

Three messages a step: images to the seekers, rows of heads back, and a vote for each pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from taudl_dist.batches import Composition
from taudl_dist.losses.mutual import find_back, pull, seek, signatures, sought_pairs
from taudl_dist.parallel import Route, exchange
from taudl_dist.training.heads import Leaves

if TYPE_CHECKING:
    from taudl_dist.training.step import Learner


def mutual_share(
    learner: Learner, own: torch.Tensor, composition: Composition, leaves: Leaves, *, step: int
) -> torch.Tensor:
    """This worker's share of the mutual association of the global batch; a collective.

    Args:
        own: (B, D) features of this worker's images, differentiable.
        leaves: the heads held here of the cameras present.
    """
    world, owners, cameras = learner.world, learner.owners, composition.cameras
    tracklets, sought = sought_pairs(cameras, step=step, at_most=learner.config.loss.mutual_cameras)
    seekers, homes = owners[sought], cameras[tracklets]
    count = len(tracklets) // len(cameras)  # pairs of each tracklet

    # a tracklet's images go to the owners of the cameras it is sought in
    images = own.unflatten(0, (-1, composition.frames))
    mine = np.arange(len(images)).repeat(count)
    there = Route.plan(seekers, [tracklets_there * count for tracklets_there in composition.rank_tracklets], world.rank)
    visitors = exchange(images[_on(own, mine)], there)
    rows, parts = visitors.detach()[:, 0].clone(), []
    for camera, places in _runs(sought[there.rows]):
        at = _on(own, places)
        labels = seek(visitors[at].detach().mean(1), leaves[camera])
        parts.append((at, pull(visitors[at], labels, leaves[camera])))
        rows[at] = signatures(leaves[camera], labels).to(rows.dtype)

    # what was found there goes to the owner of the tracklet's own camera, who says whether it finds back
    by_seeker = np.argsort(seekers, kind="stable")
    back = Route.plan(owners[homes[by_seeker]], np.bincount(seekers, minlength=world.size).tolist(), world.rank)
    arrived, pairs = exchange(rows, back), by_seeker[back.rows]
    finds = own.new_zeros(len(tracklets))
    for camera, places in _runs(homes[pairs]):
        found = find_back(arrived[_on(own, places)], leaves[camera])
        labels = _on(own, composition.labels[tracklets[pairs[places]]])
        finds[_on(own, pairs[places])] = (found == labels).to(finds.dtype)
    if world.size > 1:
        dist.all_reduce(finds)
    here = finds[_on(own, there.rows)]
    # visitors of no rows: nothing to sum, but in the graph, for a rank may own no head of this batch
    nothing = visitors[:0].sum(dtype=torch.promote_types(own.dtype, torch.float32))
    return sum((loss @ here[at].to(loss.dtype) for at, loss in parts), nothing) / max(1, len(tracklets))


def _runs(cameras: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each camera, ascending, and the positions where it stands."""
    order = np.argsort(cameras, kind="stable")
    found, first = np.unique(cameras[order], return_index=True)
    return zip(found.tolist(), np.split(order, first[1:]))


def _on(like: torch.Tensor, numbers: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(numbers).to(like.device, non_blocking=True)
