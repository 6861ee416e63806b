"""A worker that trains from an object store: the same batches, whatever network, cache and disk do."""

from __future__ import annotations

import itertools
import shutil
import threading
import time

import pytest
import torch

from taudl_dist.batches import BatchLoader, BatchPlan
from taudl_dist.config import StorageConfig, resolve
from taudl_dist.dataset import extent_cache, open_dataset, storage
from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.extent_cache import ExtentCache, disk_bytes
from taudl_dist.errors import UserError

BATCH = {"images": 16, "frames": 2, "cameras": 4, "height": 32, "width": 16}
STEPS = 24


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)


def our_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("taudl-")}


@pytest.fixture(autouse=True)
def no_thread_left():
    before = our_threads()
    yield
    end = time.perf_counter() + 5  # a request that was given up ends by itself
    while our_threads() - before and time.perf_counter() < end:
        time.sleep(0.01)
    assert not our_threads() - before


@pytest.fixture(scope="module")
def local(tmp_path_factory, write_dataset):
    """Five cameras, 77 tracklets, of which a step shows 8."""
    return open_dataset(write_dataset(tmp_path_factory.mktemp("remote") / "dataset", [20, 9, 2, 30, 16]))


@pytest.fixture
def uri(local, object_store):
    if not object_store.has("batches/dataset.json"):
        object_store.upload(local.path, "batches")
    return object_store.uri("batches")


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def make_loader(uri, cache_dir):
    def make(*, rank=0, world_size=1, start=0, stop=STEPS, data=uri, **settings):
        config = resolve({"batch": BATCH, "storage": {"cache_dir": str(cache_dir), "attempts": 3, **settings}})
        dataset = open_dataset(data, config.storage)
        return BatchLoader(
            dataset, BatchPlan(dataset, config), rank=rank, world_size=world_size, start=start, stop=stop
        )

    return make


@pytest.fixture(scope="module")
def expected(local):
    """The images of each step, from the local disk."""
    plan = BatchPlan(local, resolve({"batch": BATCH}))
    loader = BatchLoader(local, plan, rank=0, world_size=1, start=0, stop=STEPS)
    assert loader.stats() == {}
    return [batch.images for batch in loader]


def largest_step(loader):
    return max(sum(disk_bytes(extent) for extent in loader._extents_of_step(step)) for step in range(STEPS))


def bytes_on_disk(folder):
    return sum(path.stat().st_blocks * 512 for path in folder.glob("worker-*/*/*/*"))


def check(loader, expected):
    for images, batch in zip(expected, loader, strict=True):
        assert torch.equal(images, batch.images)


def test_the_same_batches_and_every_tracklet_once(make_loader, expected):
    loader = make_loader()
    check(loader, expected)
    stats = loader.stats()
    seen = {extent for step in range(STEPS) for extent in loader._extents_of_step(step)}
    assert stats["tracklets"] - stats["cache_hits"] == len(seen)
    assert stats["refetched"] == stats["evictions"] == stats["retries"] == 0
    assert stats["fetched_over_used"] < 1


@pytest.mark.parametrize("ahead_steps", [1, 3, 50])
def test_two_workers_see_the_halves(make_loader, expected, ahead_steps):
    loaders = [make_loader(rank=rank, world_size=2, ahead_steps=ahead_steps) for rank in range(2)]
    for images, *parts in zip(expected, *loaders, strict=True):
        assert torch.equal(images, torch.cat([part.images for part in parts]))


@pytest.mark.parametrize("ahead_steps", [1, 4, 30])
def test_a_tiny_cache_stays_within_its_limit(make_loader, expected, cache_dir, ahead_steps):
    limit = 2 * largest_step(make_loader())
    loader = make_loader(cache_bytes=limit, ahead_steps=ahead_steps)
    watching, most = threading.Event(), [0]

    def watch():
        while not watching.wait(0.001):
            most[0] = max(most[0], _sum_once(cache_dir))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        check(loader, expected)
    finally:
        watching.set()
        watcher.join()
    assert limit / 2 < most[0] <= limit
    assert loader.stats()["evictions"] > 0


def _sum_once(folder):
    """What the files take; one that vanishes or is renamed meanwhile counts with one of its names only."""
    total = {}
    for path in folder.glob("worker-*/*/*/*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        total[status.st_ino] = status.st_blocks * 512
    return sum(total.values())


def test_a_cache_too_small_for_two_steps_is_refused_with_the_size_it_needs(make_loader, expected):
    with pytest.raises(UserError, match=r"set storage\.cache_bytes=\d+ or more") as caught:
        list(make_loader(cache_bytes=20_000))
    needed = int(str(caught.value).split("cache_bytes=")[-1].split()[0])
    check(make_loader(cache_bytes=needed), expected)


def test_a_step_that_outgrows_the_cache_later_is_refused_too(make_loader, monkeypatch):
    loader = make_loader(ahead_steps=1, cache_bytes=2 * largest_step(make_loader()))
    usual = loader._extents_of_step
    growing = lambda step: usual(step) if step < 6 else [e for s in range(12) for e in usual(s)]  # noqa: E731
    monkeypatch.setattr(loader, "_extents_of_step", growing)
    with pytest.raises(UserError, match=r"set storage\.cache_bytes=\d+ or more"):
        list(loader)


def test_a_restart_finds_what_was_fetched(make_loader, expected, object_store):
    check(make_loader(stop=8), expected[:8])
    object_store.reset()
    again = make_loader(stop=8)
    check(again, expected[:8])
    assert not any(key.endswith(".tar") for _, key in object_store.requests)
    assert again.stats()["cache_hits"] == again.stats()["tracklets"]


def test_a_restart_with_a_smaller_limit_keeps_to_it(make_loader, expected, cache_dir):
    check(make_loader(), expected)
    limit = 2 * largest_step(make_loader())
    assert bytes_on_disk(cache_dir) > limit
    check(make_loader(cache_bytes=limit), expected)
    assert bytes_on_disk(cache_dir) <= limit


def test_workers_of_a_machine_share_what_they_fetched(make_loader, expected, object_store, local, cache_dir):
    for images, *parts in zip(expected, *(make_loader(rank=rank, world_size=2) for rank in range(2)), strict=True):
        assert torch.equal(images, torch.cat([part.images for part in parts]))
    assert {path.name for path in cache_dir.glob("worker-*") if path.is_dir()} == {"worker-0", "worker-1"}
    object_store.reset()
    alone = make_loader()
    check(alone, expected)
    assert not any(key.endswith(".tar") for _, key in object_store.requests)
    assert len({path.stat().st_ino for path in cache_dir.glob("worker-*/*/*/*")}) <= len(local.training)


def test_another_dataset_takes_over_the_folder(make_loader, write_dataset, object_store, cache_dir):
    list(make_loader())
    other = write_dataset(cache_dir.parent / "other", [5, 6, 4, 5])
    text = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(text.replace("f" * 64, "e" * 64))
    check(make_loader(data=object_store.upload(other, "other")), [b.images for b in make_loader(data=str(other))])
    assert {path.name for path in cache_dir.glob("worker-*/*")} == {"e" * 64}


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_damage_on_the_disk_is_healed(make_loader, expected, cache_dir, damage):
    check(make_loader(), expected)
    for path in list(cache_dir.glob("worker-*/*/*/*"))[::3]:
        data = path.read_bytes()
        path.write_bytes(
            {"cut": data[:-100], "flipped": data[:700] + b"~~~~" + data[704:], "gone": data, "empty": b""}[damage]
        )
        if damage == "gone":
            path.unlink()
    loader = make_loader()
    check(loader, expected)
    assert (loader.stats()["refetched"] > 0) == (damage == "flipped")  # the others are seen when the folder is opened


def test_files_that_vanish_while_they_are_used_are_fetched_again(make_loader, expected, cache_dir):
    loader = make_loader(ahead_steps=50)
    for position, (images, batch) in enumerate(zip(expected, loader, strict=True)):
        assert torch.equal(images, batch.images)
        if position == 2:
            for folder in cache_dir.glob("worker-*/*/*"):
                shutil.rmtree(folder)
    assert loader.stats()["refetched"] > 0


def test_faults_everywhere_change_nothing(make_loader, expected, object_store):
    faults = itertools.cycle(["SlowDown", None, "close", "short", "garbage", None, "InternalError", None])
    loader = make_loader(attempts=12, requests=3, ahead_steps=2)
    object_store.fault = lambda method, *_: next(faults) if method == "GET" else None
    check(loader, expected)
    assert loader.stats()["retries"] > 10
    assert object_store.busiest <= 3


def test_a_fault_that_stays_ends_the_iteration_at_its_step(make_loader, expected, object_store):
    loader = make_loader(ahead_steps=2)
    with pytest.raises(UserError, match=r"s3://corpus/batches/shards/cam\d-0\.tar, offset \d+, .*failed in 3 attempts"):
        for images, batch in zip(expected, loader, strict=True):
            assert torch.equal(images, batch.images)
            if batch.step == 0:
                object_store.fail("SlowDown", suffix=".tar")
                shutil.rmtree(loader._reader.remote.cache.folder)


def test_a_loop_that_is_left_ends_its_threads(make_loader, object_store):
    object_store.stall_s = 0.5
    object_store.fail("stall", suffix=".tar")
    loader = make_loader(stop=10**6)
    next(iter(loader))
    loader.close()


def test_an_iteration_never_begun_leaves_nothing(make_loader, cache_dir):
    iter(make_loader())
    make_loader().close()
    assert not list(cache_dir.glob("worker-*"))


def test_a_full_disk_is_named_and_leaves_no_rest(monkeypatch, cache_dir):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache = ExtentCache(cache_dir, "f" * 64)
    monkeypatch.setattr(extent_cache.Path, "replace", full)
    with pytest.raises(UserError, match=r"cache folder .*cache: No space left on device; set storage\.cache_dir"):
        cache.write(Extent(0, 0, 3), b"abc")
    assert not list(cache_dir.glob("worker-*/*/*/*"))
    cache.close()


def test_a_disk_that_fills_up_ends_the_iteration(make_loader, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    loader = make_loader()
    monkeypatch.setattr(extent_cache.Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        list(loader)


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "a parent that is a file"])
def test_an_unusable_cache_folder_is_named(uri, make_loader, cache_dir, obstacle):
    loader = make_loader()
    shutil.rmtree(cache_dir)
    cache_dir.write_text(obstacle)
    with pytest.raises(UserError, match=r"cache folder .*; set storage\.cache_dir"):
        list(loader)
    with pytest.raises(UserError, match=r"cache folder .*; set storage\.cache_dir"):
        open_dataset(
            uri, StorageConfig(cache_dir=str(cache_dir / "deeper") if "parent" in obstacle else str(cache_dir))
        )


def test_stray_files_in_the_cache_are_no_obstacle(make_loader, expected, cache_dir):
    check(make_loader(), expected)
    folder = next(cache_dir.glob("worker-*/*"))
    (folder / "notes").mkdir()
    (folder / "0" / "readme").write_text("x")
    (folder / "0" / "12-99-tmp").write_bytes(b"half")
    check(make_loader(), expected)
    assert not (folder / "0" / "12-99-tmp").exists()
