"""Against a slow, obvious cache that scans the whole future at each decision."""

from __future__ import annotations

import random

import pytest

from taudl_dist.dataset.eviction import FarthestNextUse


def belady(uses, limit, sizes):
    """Fetched keys of Belady's cache that is asked for one step after the other and sees everything."""
    kept, fetched = {}, []
    for step, keys in enumerate(uses):
        for key in keys:
            if key in kept:
                continue
            fetched.append(key)
            while sum(kept.values()) + sizes[key] > limit:
                future = [set(later) for later in uses[step:]]
                next_use = {k: next((i for i, later in enumerate(future) if k in later), len(future)) for k in kept}
                candidates = [k for k, distance in next_use.items() if distance > 0]
                del kept[max(candidates, key=lambda k: next_use[k])]
            kept[key] = sizes[key]
    return fetched


def run(uses, limit, sizes, *, ahead=0, known=10**9):
    """The same with FarthestNextUse, fetching `ahead` steps before use and knowing `known` steps beyond that."""
    cache, fetched = FarthestNextUse(limit), []
    told = iter([{key: sizes[key] for key in keys} for keys in uses])
    next_fetch = 0

    def look(end):
        while cache.known < min(end, len(uses)):
            cache.tell(next(told))

    for step in range(len(uses)):
        look(step + ahead + 1 + known)
        while next_fetch < min(len(uses), step + ahead + 1):
            leaving = None
            for key in cache.missing(next_fetch):
                leaving = cache.admit(key, next_fetch)
                if leaving is None:
                    break
                assert key not in leaving
                assert not {k for past in uses[step : next_fetch + 1] for k in past} & set(leaving), "needed first"
                fetched.append(key)
            if leaving is None and cache.missing(next_fetch):
                break
            next_fetch += 1
        assert next_fetch > step, "the step in use always fits"
        assert cache.used == sum(sizes[key] for key in sizes if key in cache) <= limit
        assert all(key in cache for key in uses[step])
        cache.finish()
    return fetched


def epochs(number, keys, per_step, rng):
    order = [key for _ in range(number) for key in rng.sample(range(keys), keys)]
    return [tuple(dict.fromkeys(order[at : at + per_step])) for at in range(0, len(order), per_step)]


@pytest.mark.parametrize("seed", range(20))
def test_equal_sizes_fetch_as_often_as_beladys_cache(seed):
    rng = random.Random(seed)
    uses = [tuple(rng.sample(range(15), rng.randrange(1, 4))) for _ in range(60)]
    sizes = dict.fromkeys(range(15), 1)
    for limit in (3, 5, 9, 15):
        assert len(run(uses, limit, sizes)) == len(belady(uses, limit, sizes))


@pytest.mark.parametrize("seed", range(20))
def test_any_sizes_stay_within_the_limit_and_near_belady(seed):
    rng = random.Random(seed)
    sizes = {key: rng.randrange(1, 9) for key in range(20)}
    uses = epochs(5, 20, 2, rng)
    for limit in (16, 40, 80, 500):
        for ahead in (0, 1, 4, 50):
            run(uses, limit, sizes, ahead=ahead, known=rng.randrange(30))
        assert sum(sizes[key] for key in run(uses, limit, sizes)) <= 1.25 * sum(
            sizes[key] for key in belady(uses, limit, sizes)
        )


def test_a_cache_that_holds_all_fetches_all_once():
    sizes = dict.fromkeys(range(50), 3)
    uses = epochs(4, 50, 7, random.Random(0))
    assert sorted(run(uses, 150, sizes, ahead=5, known=0)) == list(range(50))


def test_more_future_means_fewer_fetches():
    rng = random.Random(3)
    sizes = dict.fromkeys(range(300), 1)
    uses = epochs(8, 300, 3, rng)
    fetched = [len(run(uses, 30, sizes, ahead=1, known=known)) for known in (0, 20, 80, 10**6)]
    assert fetched == sorted(fetched, reverse=True) and fetched[-1] < fetched[0]
    assert (
        fetched[0] < 1.03 * fetched[-1]
    )  # to drop what was just used is nearly right for orders of the same tracklets


def test_fetching_ahead_costs_only_the_room_it_takes():
    rng = random.Random(4)
    sizes = dict.fromkeys(range(200), 1)
    uses = epochs(6, 200, 2, rng)
    assert len(run(uses, 40, sizes, ahead=5)) <= len(belady(uses, 40 - 12, sizes))


def test_among_the_unknown_the_last_used_leaves_first():
    cache = FarthestNextUse(3)
    for key in "abcd":
        cache.tell({key: 1})
    for step, key in enumerate("abc"):
        assert cache.admit(key, step) == []
        cache.finish()
    assert cache.admit("d", 3) == ["c"]


def test_what_a_run_finds_is_used_and_what_is_over_the_limit_leaves():
    cache = FarthestNextUse(3, first=7, kept={"a": 1, "b": 1, "c": 1, "d": 1})
    cache.tell({"a": 1, "b": 1, "e": 1})
    (gone,) = cache.surplus()
    assert gone in ("c", "d") and cache.missing(7) == ["e"]
    assert cache.admit("e", 7) == [({"c", "d"} - {gone}).pop()]


def test_no_room_changes_nothing():
    cache = FarthestNextUse(4)
    cache.tell({"a": 2, "b": 2})
    cache.tell({"a": 2, "c": 3})
    assert (cache.admit("a", 0), cache.admit("b", 0), cache.admit("c", 1)) == ([], [], None)
    assert (cache.used, "b" in cache, cache.missing(1)) == (4, True, ["c"])
    cache.finish()
    assert cache.admit("c", 1) is None  # "a" is needed with it and "b" alone frees too little
    assert "b" in cache


def test_memory_does_not_grow_with_the_steps():
    cache = FarthestNextUse(20)
    for step in range(20_000):
        cache.tell(dict.fromkeys(range(10), 1))
        for key in cache.missing(step):
            cache.admit(key, step)
        cache.finish()
    assert len(cache._victims) < 2000 and len(cache._last_use) == 0 and not cache._steps
