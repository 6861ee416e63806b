from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from taudl_dist.batches import BatchLoader, BatchPlan
from taudl_dist.batches.loader import prefetch
from taudl_dist.config import resolve
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UsageError, UserError

BATCH = {"images": 48, "frames": 2, "cameras": 4, "groups_per_camera": 2, "height": 32, "width": 16}


@pytest.fixture(scope="module")
def plan(small_dataset):
    return BatchPlan(small_dataset, resolve({"batch": BATCH}))


@pytest.fixture(autouse=True)
def no_thread_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def make_loader(dataset, plan, *, rank=0, world_size=1, start=0, stop=3, **options):
    return BatchLoader(dataset, plan, rank=rank, world_size=world_size, start=start, stop=stop, **options)


def test_batch_follows_the_plan(small_dataset, plan):
    batches = list(make_loader(small_dataset, plan, start=5, stop=8))
    assert [batch.step for batch in batches] == [5, 6, 7]
    for batch in batches:
        groups = plan.groups(batch.step)
        assert batch.images.shape == (sum(batch.group_sizes), 3, 32, 16) and batch.images.dtype == torch.float32
        assert batch.group_sizes == tuple(g.num_images for g in groups)
        whole = batch.composition
        assert whole.cameras.tolist() == [g.camera for g in groups for _ in g.rows]
        assert whole.labels.tolist() == [label for g in groups for label in g.labels]
        assert (whole.frames, whole.rank_tracklets, whole.tracklets_of(0)) == (
            2,
            (len(whole.cameras),),
            slice(0, len(whole.cameras)),
        )
        assert whole.num_images == len(batch.images)
        assert {whole.labels.dtype, whole.cameras.dtype} == {np.dtype(np.int64)}
        assert torch.isfinite(batch.images).all() and batch.images.std() > 0.1


@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_decoded_batches_are_bit_equal_for_every_number_of_workers(small_dataset, plan, world_size):
    one = list(make_loader(small_dataset, plan))
    ranks = [list(make_loader(small_dataset, plan, rank=r, world_size=world_size)) for r in range(world_size)]
    for step, whole in enumerate(one):
        parts = [batches[step] for batches in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert sum((part.group_sizes for part in parts), ()) == whole.group_sizes
        for rank, part in enumerate(parts):
            for name in ("cameras", "labels"):
                assert np.array_equal(getattr(part.composition, name), getattr(whole.composition, name)), name
            assert part.composition.rank_tracklets == tuple(len(other.images) // 2 for other in parts)
            own = part.composition.tracklets_of(rank)
            assert own.stop - own.start == len(part.images) // 2
            assert own.start == sum(part.composition.rank_tracklets[:rank])


def test_eight_workers(write_dataset, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "dataset", [4, 5, 3, 4, 6, 3, 4, 3]))
    plan = BatchPlan(dataset, resolve({"batch": {"images": 48, "frames": 2, "height": 32, "width": 16}}))
    (whole,) = make_loader(dataset, plan, start=10**6, stop=10**6 + 1)
    parts = [
        next(iter(make_loader(dataset, plan, rank=r, world_size=8, start=10**6, stop=10**6 + 1))) for r in range(8)
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert sum(parts[0].composition.rank_tracklets) == len(whole.composition.cameras)


def test_starting_later_gives_the_same_batches(small_dataset, plan):
    fourth = list(make_loader(small_dataset, plan, stop=4))[3]
    (resumed,) = make_loader(small_dataset, plan, start=3, stop=4, depth=5)
    assert torch.equal(fourth.images, resumed.images)


def test_more_workers_than_groups_is_refused_at_once(small_dataset, plan):
    with pytest.raises(UsageError, match="groups_per_camera=3"):
        make_loader(small_dataset, plan, world_size=9)


@pytest.mark.parametrize("wanted", ["close", "break", "delete", "unused"])
def test_no_thread_left(small_dataset, plan, wanted):
    loader = make_loader(small_dataset, plan, stop=10**6)
    if wanted != "unused":
        for _ in loader:
            break
    if wanted in ("close", "unused"):
        loader.close()
        loader.close()
    del loader


def test_a_corrupt_image_is_named(write_dataset, tmp_path):
    def spoil(camera, label, frame, jpeg):
        return jpeg[:-200] if (camera, label, frame) == (1, 2, 0) else jpeg

    dataset = open_dataset(write_dataset(tmp_path / "dataset", [4, 4], spoil=spoil))
    plan = BatchPlan(dataset, resolve({"batch": {"images": 64, "frames": 8, "height": 32, "width": 16}}))
    with pytest.raises(UserError, match=r"cam2-0\.tar: cam2-000000000002\.000000\.jpg.*taudl validate"):
        list(make_loader(dataset, plan))


def test_damaged_shards_and_index_are_named(write_dataset, tmp_path):
    folder = write_dataset(tmp_path / "dataset", [4, 4])
    dataset = open_dataset(folder)
    plan = BatchPlan(dataset, resolve({"batch": {"images": 32, "height": 32, "width": 16}}))
    wrong = dataclasses.replace(dataset.training, num_frames=dataset.training.num_frames + 1, file=None)
    with pytest.raises(UserError, match=r"tracklet cam\d-\w+ has \d images, the index says \d"):
        list(make_loader(dataclasses.replace(dataset, training=wrong), plan))
    shard = folder / "shards" / "cam1-0.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cam1-0\.tar"):
        list(make_loader(dataset, plan))


def test_prefetch_keeps_order_and_stays_ahead_by_depth():
    made = []
    enough = threading.Semaphore(0)

    def make(step):
        made.append(step)
        enough.release()
        return step * step

    items = prefetch(make, range(20), depth=3)
    assert next(items) == 0
    for _ in range(4):
        enough.acquire(timeout=10)
    assert made == [0, 1, 2, 3]
    assert list(items) == [step * step for step in range(1, 20)]


def test_prefetch_raises_in_place():
    def make(step):
        if step == 2:
            raise UserError("the third")
        return step

    items = prefetch(make, range(20), depth=5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(UserError, match="the third"):
        next(items)


def test_prefetch_of_nothing():
    assert list(prefetch(lambda step: step, range(5, 5), depth=2)) == []
