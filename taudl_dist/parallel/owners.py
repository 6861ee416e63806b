"""Which rank keeps which camera's head: a pure function of label counts and world size, never stored with the weights."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def assign_owners(label_counts: Sequence[int], world_size: int) -> list[int]:
    """Rank of each camera's head: the largest head first, each to the rank with the fewest labels so far.

    Ties go to the lower camera and the lower rank. The fullest rank holds at most the mean plus the largest head.

    Args:
        label_counts: M_t of each camera.
        world_size: W.

    Returns:
        A rank in 0..W-1 for each camera.
    """
    owners = [0] * len(label_counts)
    loads = [(0, rank) for rank in range(world_size)]
    for camera in sorted(range(len(label_counts)), key=lambda camera: (-label_counts[camera], camera)):
        load, owners[camera] = heapq.heappop(loads)
        heapq.heappush(loads, (load + label_counts[camera], owners[camera]))
    return owners
