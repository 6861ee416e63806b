from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from taudl_dist.parallel.traffic import (
    StepCounts,
    all_gather_bytes,
    all_reduce_bytes,
    gathered_traffic,
    images_exchanged,
    step_traffic,
)


def ring(world_size, blocks, *, reduce):
    """Bytes sent by each rank, message by message: `blocks` bytes stand at each rank's place of the ring."""
    sent = [0] * world_size
    for _ in range(2 if reduce else 1):
        for turn in range(world_size - 1):
            for rank in range(world_size):
                sent[rank] += blocks[(rank - turn) % world_size]
    return sent


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ring_collectives(world_size):
    size = 24  # divides by all
    assert set(ring(world_size, [size // world_size] * world_size, reduce=True)) == {all_reduce_bytes(size, world_size)}
    assert set(ring(world_size, [size] * world_size, reduce=False)) == {all_gather_bytes(size, world_size)}


CASES = [
    # world size, what is there, bytes by name, remark
    (1, {}, {"backbone": 0, "statistics": 0, "means": 0, "features": 0}, "alone: nothing"),
    (2, {}, {"backbone": 4000, "statistics": 28, "means": 2 * 6 * 64, "features": 2 * 5 * 64, "heads": 0}, "two"),
    (4, {"value_bytes": 8}, {"backbone": 12000, "means": 2 * 3 * 6 * 128}, "fp64"),
    (4, {"rows_to_all": 0}, {"means": 0}, "without CCTA"),
    (2, {"sought_sent": 8.0, "signatures_sent": 3.0}, {"matches": (2 * 8 + 3) * 64}, "mutual association"),
    (2, {"images_sent": 0, "head_rows": 10}, {"features": 0, "heads": 10 * 17 * 4}, "replicated heads"),
]


@pytest.mark.parametrize(("world_size", "changes", "expected", "remark"), CASES)
def test_step_traffic(world_size, changes, expected, remark):
    counts = {"parameters": 1000, "statistics": 7, "feature_dim": 16, "rows_to_all": 6, "images_sent": 5.0} | changes
    if world_size == 1:
        counts["images_sent"] = 0.0
    traffic = step_traffic(StepCounts(world_size=world_size, **counts))
    assert {name: traffic[name] for name in expected} == expected, remark


def test_gathering_everything_costs_the_frames_more_for_the_means_alone():
    counts = StepCounts(world_size=8, parameters=1000, statistics=7, feature_dim=16, rows_to_all=6, images_sent=21.0)
    old, new = gathered_traffic(counts, images=24), step_traffic(counts)
    assert old["features"] == 4 * new["means"] and old["backbone"] == new["backbone"]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_images_exchanged_equals_counting_one_by_one(world_size):
    rng = np.random.default_rng(world_size)
    cameras, owners = rng.integers(0, 9, 40), rng.integers(0, world_size, 9)
    bounds = np.sort(rng.integers(0, 41, world_size - 1))
    rank_tracklets = np.diff(np.concatenate([[0], bounds, [40]])).tolist()
    sent, received, computed = Counter(), Counter(), Counter()
    place = iter(cameras.tolist())
    for rank, count in enumerate(rank_tracklets):
        for _ in range(count):
            owner = owners[next(place)]
            computed[owner] += 4
            sent[rank] += 4 * (owner != rank)
            received[owner] += 4 * (owner != rank)
    result = images_exchanged(cameras, rank_tracklets, owners, frames=4)
    expected = [[counter[rank] for rank in range(world_size)] for counter in (sent, received, computed)]
    assert [counts.tolist() for counts in result] == expected
