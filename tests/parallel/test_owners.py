"""Owners of heads: balanced, deterministic, complete."""

from __future__ import annotations

import numpy as np
import pytest

from taudl_dist.parallel import assign_owners


@pytest.mark.parametrize("world_size", [1, 2, 4, 7, 64])
def test_labels_are_balanced_within_a_tenth(world_size: int) -> None:
    counts = np.random.default_rng(0).lognormal(7, 1, 5000).astype(int).tolist()
    owners = assign_owners(counts, world_size)
    loads = np.bincount(owners, weights=counts, minlength=world_size)
    assert loads.sum() == sum(counts)
    assert loads.max() <= 1.1 * sum(counts) / world_size
    assert owners == assign_owners(tuple(counts), world_size)


@pytest.mark.parametrize(
    ("counts", "world_size", "owners"),
    [
        ([4, 4, 4], 3, [0, 1, 2]),  # ties: lower camera, lower rank
        ([1, 8, 3, 4], 2, [1, 0, 1, 1]),
        ([5], 3, [0]),  # ranks without a head
        ([], 2, []),
        ([0, 7], 1, [0, 0]),
    ],
)
def test_table(counts: list[int], world_size: int, owners: list[int]) -> None:
    assert assign_owners(counts, world_size) == owners


def test_fullest_rank_exceeds_the_mean_by_one_head_at_most() -> None:
    counts = [100, 1, 1, 1]
    loads = np.bincount(assign_owners(counts, 3), weights=counts)
    assert loads.max() <= sum(counts) / 3 + max(counts)
