"""Mutual association among the workers: a camera's owner seeks there, the owner of the tracklet's camera says what finds back."""

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
    learner: Learner, features: torch.Tensor, composition: Composition, leaves: Leaves, *, step: int
) -> torch.Tensor:
    """This worker's share of the mutual association of the global batch; a collective.

    Args:
        features: (N_bs, D) of all images of the global batch, differentiable.
        leaves: the heads held here of the cameras present.
    """
    world, owners = learner.world, learner.owners
    tracklets, sought = sought_pairs(composition.cameras, step=step, at_most=learner.config.loss.mutual_cameras)
    order = np.lexsort((tracklets, sought, owners[sought]))  # by the rank that seeks, then by the camera it seeks in
    tracklets, sought = tracklets[order], sought[order]
    seekers, homes = owners[sought], composition.cameras[tracklets]

    images = features.unflatten(0, (-1, composition.frames))
    means, own = images.detach().mean(1), np.flatnonzero(seekers == world.rank)
    # features of no rows: nothing to sum, but in the graph, for a rank may own no head of this batch
    losses, rows = [images[:0].sum((1, 2), dtype=torch.promote_types(images.dtype, torch.float32))], [means[:0]]
    for camera, pairs in _runs(sought[own]):
        chosen = _on(features, tracklets[own[pairs]])
        labels = seek(means[chosen], leaves[camera])
        losses.append(pull(images[chosen], labels, leaves[camera]))
        rows.append(signatures(leaves[camera], labels))
    rank_pairs = np.bincount(seekers, minlength=world.size).tolist()
    route = Route.plan(owners[homes], rank_pairs, world.rank)
    arrived = exchange(torch.cat(rows), route)

    finds = means.new_zeros(len(tracklets))
    labels_of = composition.labels[tracklets]
    for camera, pairs in _runs(homes[route.rows]):
        back = find_back(arrived[_on(means, pairs)], leaves[camera])
        places = route.rows[pairs]
        finds[_on(means, places)] = (back == _on(means, labels_of[places])).to(finds.dtype)
    if world.size > 1:
        dist.all_reduce(finds)
    loss = torch.cat(losses)
    return loss @ finds[_on(means, own)].to(loss.dtype) / max(1, len(tracklets))


def _runs(cameras: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each camera, ascending, and the positions where it stands."""
    order = np.argsort(cameras, kind="stable")
    found, first = np.unique(cameras[order], return_index=True)
    return zip(found.tolist(), np.split(order, first[1:]))


def _on(like: torch.Tensor, numbers: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(numbers).to(like.device, non_blocking=True)
