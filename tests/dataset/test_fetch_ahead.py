"""Many plans, limits and speeds against a store in memory: every step finds its extents on the disk, and none waits for ever."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace

import pytest

from taudl_dist.config import StorageConfig
from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.extent_cache import disk_bytes
from taudl_dist.dataset.fetch_ahead import FetchAhead
from taudl_dist.dataset.storage import ReadStats
from taudl_dist.errors import UserError


class Store:
    """RemoteShards without a network: an extent's bytes tell which it is; some take their time."""

    def __init__(self, config, rng):
        self.stats, self.cache = ReadStats(), None
        self.storage = SimpleNamespace(config=config, count=self._count)
        self.dataset = SimpleNamespace(digest="a" * 64, info={"shards": [{"bytes": 10**9}]})
        self._rng, self._lock = rng, threading.Lock()

    def fetch(self, wanted):
        if self._rng.random() < 0.2:
            time.sleep(0.002)
        return {extent: content(extent) for extent in wanted.extents}

    def _count(self, **more):
        with self._lock:
            for name, value in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + value)


def content(extent):
    return f"{extent.shard}/{extent.offset} ".encode() * (extent.length // 6)


def an_extent(number):
    """Sizes of one to three blocks on the disk."""
    text = len(content(Extent(number % 5, number * 20_000, 6)))
    return Extent(number % 5, number * 20_000, text * (1 + number * 397 % 900))


@pytest.fixture
def walk(tmp_path):
    """Uses some steps as a worker does; what was fetched."""

    def run(uses, *, seed=0, plan_s=0.0, **settings):
        def extents_of(step):
            time.sleep(plan_s)
            return uses[step]

        config = StorageConfig(cache_dir=str(tmp_path / "cache"), **settings)
        store = Store(config, random.Random(seed))
        store.fetch = _lengths(store.fetch)
        ahead = FetchAhead(store, extents_of, range(len(uses)))
        kept = ahead._kept
        try:
            for step, extents in enumerate(uses):
                with ahead.step(step):
                    for extent in extents:
                        assert store.cache.read(extent) is not None
                assert kept.used <= config.cache_bytes
        finally:
            ahead.close()
        return store.stats

    return run


def _lengths(fetch):
    """The store's contents, cut to the extents' lengths."""
    return lambda wanted: {extent: data.ljust(extent.length)[: extent.length] for extent, data in fetch(wanted).items()}


@pytest.mark.parametrize("seed", range(40))
def test_any_plan(walk, seed):
    rng = random.Random(seed)
    extents = [an_extent(number) for number in range(60)]
    uses = [rng.sample(extents, rng.randrange(1, 9)) for _ in range(40)]
    largest = max(sum(map(disk_bytes, step)) for step in uses)
    settings = {
        "cache_bytes": rng.choice([2 * largest, 3 * largest, 5 * largest, 10**9]),
        "ahead_steps": rng.choice([1, 2, 5, 16, 100]),
        "requests": rng.choice([1, 2, 8]),
    }
    stats = walk(uses, seed=seed, **settings)
    assert 0 <= stats.cache_hits <= sum(map(len, uses))
    again = walk(uses, seed=seed, **settings)  # a restart, on what the first run left
    assert settings["cache_bytes"] < 10**9 or again.cache_hits == sum(map(len, uses))


@pytest.mark.parametrize("before", range(4, 12))
def test_steps_that_need_no_request_are_not_waited_for(walk, before):
    """The worker waits for a slow plan; then all is there, but the step after has no room: nothing arrives that could wake it."""
    first, second, third = ([extent] for extent in map(an_extent, (1, 3, 5)))
    limit = 2 * disk_bytes(first[0])
    assert [disk_bytes(extent) for (extent,) in (first, second, third)] == 3 * [limit // 2]
    uses = [first, second] * before + [third] + [first, second] * 3
    walk(uses, cache_bytes=limit, ahead_steps=4, plan_s=0.005)


def test_a_plan_that_fails_is_raised_in_the_step(tmp_path):
    uses = [[an_extent(0)], [an_extent(1)]]

    def extents_of(step):
        if step > 1:
            raise UserError("the index ends here")
        return uses[step]

    store = Store(StorageConfig(cache_dir=str(tmp_path), ahead_steps=1), random.Random(0))
    store.fetch = _lengths(store.fetch)
    ahead = FetchAhead(store, extents_of, range(9))
    reached = []
    with pytest.raises(UserError, match="the index ends here"):
        for step in range(3):
            with ahead.step(step):
                reached.append(step)
    ahead.close()
    assert 2 not in reached  # it may end earlier: the plan is asked ahead of the steps


def test_no_steps(walk):
    assert walk([]) == ReadStats()
