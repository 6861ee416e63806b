"""What `taudl plan` says of a run, against counting every step of it."""

from __future__ import annotations

import numpy as np
import pytest

from taudl_dist.batches import BatchPlan
from taudl_dist.batches.forecast import forecast
from taudl_dist.config import merge, resolve
from taudl_dist.errors import UsageError

SIZES = [9, 0, 4, 2, 12]
SETTINGS = {"steps": 30, "recipe": "official-code", "model": {"name": "small"}, "batch": {"images": 32, "cameras": 2}}


@pytest.fixture(scope="module")
def dataset(index_in_memory):
    return index_in_memory(SIZES, num_frames=np.random.default_rng(0).integers(1, 9, sum(SIZES), dtype=np.int32))


@pytest.fixture(scope="module")
def make(dataset):
    def make(changes=None, *, workers=2, steps_per_second=1.0):
        config = resolve(merge(SETTINGS, changes or {}))
        return forecast(BatchPlan(dataset, config), config, workers=workers, steps_per_second=steps_per_second)

    return make


@pytest.fixture(scope="module")
def steps(dataset):
    """Rows that each of two workers reads, of every step."""
    plan = BatchPlan(dataset, resolve(SETTINGS))
    return [[group.rows for group in plan.groups(step)] for step in range(30)]


def together(steps):
    """All rows of some steps."""
    return np.concatenate([rows for ranks in steps for rows in ranks])


def test_batch_and_reading(make, dataset, steps):
    plan, index = make(steps_per_second=2.5), dataset.training
    rows = [np.concatenate(ranks) for ranks in steps]
    assert (plan["cameras"], plan["cameras_without_tracklets"], plan["cameras_per_step"]) == (4, 1, 2)
    assert (plan["tracklets_per_camera"], plan["max_workers"], plan["groups_per_step"]) == (4, 2, 2)
    assert plan["tracklets_per_step"] == np.mean([len(step) for step in rows])
    assert plan["images_per_step"] == 4 * plan["tracklets_per_step"]
    assert plan["images_per_worker"] == 16
    assert plan["bytes_per_step"] == np.mean([index.length[step].sum() for step in rows])
    assert plan["images_read_per_step"] == np.mean([index.num_frames[step].sum() for step in rows])
    assert plan["shards_per_step"] == np.mean([len(set(index.shard[step])) for step in rows])
    assert plan["images_per_second"] == 2.5 * plan["images_per_step"]
    assert plan["bytes_per_second"] == 2.5 * plan["bytes_per_step"]


def test_epochs(make):
    epochs = make()["epochs"]
    assert epochs["most"] == ["cam3", 15.0]  # 30 * 2 / 4 visits of all four tracklets
    assert epochs["least"] == ["cam5", 5.0]


def test_cache(make, dataset, steps):
    cache, index = make({"storage": {"ahead_steps": 3}})["cache"], dataset.training
    needed = [
        {row for ranks in steps[:4] for row in ranks[rank].tolist()} for rank in (0, 1)
    ]  # a tracklet lies there once
    of_rank = [sum(-(-(int(index.length[row]) + 4) // 4096) * 4096 for row in rows) for rows in needed]
    assert cache["ahead_bytes_per_worker"] == max(of_rank) and cache["ahead_steps"] == 3
    assert cache["shards_ahead"] == len(set(index.shard[together(steps[:4])]))
    used = together(steps)
    assert cache["distinct_tracklets"] == len(set(used)) == 27 and cache["distinct_share"] == 1
    assert cache["uses_per_tracklet"] == pytest.approx(len(used) / 27)


def test_a_run_shorter_than_an_epoch(make, steps):
    cache = make({"steps": 2})["cache"]
    assert cache["distinct_tracklets"] == len(set(together(steps[:2]))) == 4 + 4 + 2 + 4
    assert cache["uses_per_tracklet"] == 1


def test_heads_and_traffic(make):
    plan = make()
    assert plan["head_rows"] == sum(plan["head_rows_per_worker"]) == 27
    assert plan["head_bytes_per_worker"] == max(plan["head_rows_per_worker"]) * 257 * 3 * 4
    traffic = plan["traffic"]["bytes_per_step"]
    embedding = 256 * 256 + 2 * 256  # the feature layer's parameters, over the five convolutions'
    convolutions = sum(9 * a * b + 2 * b for a, b in ((3, 32), (32, 64), (64, 128), (128, 256), (256, 256)))
    assert traffic["backbone"] == (convolutions + embedding) * 4
    assert traffic["means"] == 2 * 4 * 256 * 4  # the longest run of a worker has four tracklets
    assert traffic["heads"] == 0 and 0 <= traffic["features"] <= 2 * 16 * 256 * 4
    assert make(workers=1)["traffic"]["bytes_per_second"] == 0


def test_settings_that_change_heads_and_traffic(make):
    owned, sync, replicated, jcc, pctd, fp64, mutual = map(
        make,
        (
            {},
            {"model": {"batch_norm": "sync"}},
            {"parallel": {"heads": "replicated"}},
            {"recipe": "jcc"},
            {"recipe": "pctd"},
            {"precision": "fp64"},
            {"recipe": "pctd", "loss": {"mutual_weight": 1.0}},
        ),
    )

    def sent(plan, name):
        return plan["traffic"]["bytes_per_step"][name]

    assert sent(sync, "statistics") == 3 * sent(owned, "statistics")
    assert replicated["head_rows_per_worker"] == [27, 27] and replicated["head_images_busiest_over_mean"] == 1
    assert sent(replicated, "features") == 0 and sent(replicated, "heads") > 0
    assert jcc["head_rows_per_worker"] == [27, 0] and jcc["head_images_busiest_over_mean"] == 2
    assert sent(pctd, "means") == 0 and sent(pctd, "features") == sent(owned, "features")
    assert sent(pctd, "matches") == 0 and 0 < sent(mutual, "matches") <= 8 * 9 * 256 * 4
    assert sent(mutual, "means") == 0
    assert sent(fp64, "backbone") == 2 * sent(owned, "backbone")
    assert fp64["head_bytes_per_worker"] == 2 * owned["head_bytes_per_worker"]


def test_more_workers_than_groups(make):
    with pytest.raises(UsageError, match="groups_per_camera=2"):
        make(workers=3)
