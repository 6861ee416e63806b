"""Keeps the tracklets of a worker's next steps on its disk; the plan tells which those are, and what to drop for them.

A thread looks ahead and asks for what is missing; a pool makes the requests; the worker waits only for what has not arrived when
its step begins. `eviction.py` decides what stays, this module does what it says. Room for the steps in flight is certain: an
extent on its way counts as stored, and nothing leaves before it was used.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

from taudl_dist.dataset.coalesce import Extent, Range, coalesce
from taudl_dist.dataset.eviction import FarthestNextUse
from taudl_dist.dataset.extent_cache import ExtentCache, disk_bytes
from taudl_dist.dataset.location import cache_folder
from taudl_dist.dataset.request_pool import RequestPool
from taudl_dist.dataset.shards import RemoteShards
from taudl_dist.errors import UserError

USES_PER_KEPT = 8
"""Uses looked ahead per extent in the cache. With 8 as much is fetched as with the whole future known, with 1 up to 1.2 times as
much (benchmarks/remote.py)."""
MOST_USES = 500_000
"""Uses looked ahead at most: about 100 MB of memory."""
_EXTRA_STEPS = 4
_JOIN_TIMEOUT_S = 5.0


class FetchAhead:
    """The extents of some steps, fetched before their use.

    Args:
        extents_of: the worker's extents of a step, a pure function.
        steps: the steps, used in this order.

    Raises:
        UserError: the cache folder cannot be written, or the cache is too small for two steps.
    """

    def __init__(self, shards: RemoteShards, extents_of: Callable[[int], Sequence[Extent]], steps: range) -> None:
        config = shards.storage.config
        self._shards, self._extents_of, self._stop = shards, extents_of, steps.stop
        self._ahead = config.ahead_steps
        self._cache = ExtentCache(cache_folder(config.cache_dir), shards.dataset.digest)
        self._changed = threading.Condition()
        self._next = steps.start
        """First step that has not all its extents on the disk or on the way; `_misses` counts those of it that are on the way."""
        self._misses = 0
        self._full_at = -1
        self._on_the_way: set[Extent] = set()
        self._failed: dict[Extent, BaseException] = {}
        self._error: BaseException | None = None
        self._closing = False
        self._is_large = sum(shard["bytes"] for shard in shards.dataset.info["shards"]) > config.cache_bytes
        try:
            kept = {extent: disk_bytes(extent) for extent in self._cache.kept()}
            self._kept = FarthestNextUse[Extent](config.cache_bytes, first=steps.start, kept=kept)
            self._tell(min(self._stop, steps.start + self._ahead + 1))
            self._check_limit(config.cache_bytes)
            for extent in self._kept.surplus():
                self._cache.delete(extent)
        except BaseException:
            self._cache.close()
            raise
        shards.cache = self._cache
        self._pool = RequestPool(config.requests)
        self._thread = threading.Thread(target=self._work, name="taudl-look-ahead", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """While inside, the extents of this step are on the disk; outside, they may leave.

        Raises:
            UserError: one of them cannot be fetched.
        """
        began = time.perf_counter()
        with self._changed:
            assert step == self._kept.step, f"steps are used in order: {step} after {self._kept.step - 1}"
            self._changed.wait_for(lambda: self._closing or self._error or self._is_here(step))
            self._shards.storage.count(waited_s=time.perf_counter() - began)
            error = self._error or next((self._failed[e] for e in self._kept.uses(step) if e in self._failed), None)
        if error is not None:
            raise error
        if self._closing:
            raise CancelledError
        yield
        with self._changed:
            self._kept.finish()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the fetching; what is on the disk stays for the next run."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._pool.close()
        self._thread.join(_JOIN_TIMEOUT_S)
        self._shards.cache = None
        self._cache.close()

    def _is_here(self, step: int) -> bool:
        return step < self._next and self._on_the_way.isdisjoint(self._kept.uses(step))

    def _work(self) -> None:
        try:
            while self._wait_for_room():
                self._tell(min(self._stop, self._kept.step + self._ahead + 1))
                self._cache.look_around()
                with self._changed:
                    missing = self._admit()
                    self._changed.notify_all()
                for wanted in coalesce(missing):
                    self._request(wanted)
                if self._is_large:
                    self._look_further()
        except BaseException as error:  # raised again in the worker's step
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Waits until half of the steps ahead are used up, so that neighbours among the next half go into one request."""

        def is_time() -> bool:
            step = self._kept.step
            return self._closing or (self._next - step <= max(1, self._ahead // 2) and step > self._full_at)

        with self._changed:
            self._changed.wait_for(lambda: is_time() or self._next == self._stop)
            return not self._closing and self._next < self._stop

    def _tell(self, end: int) -> None:
        """Makes the steps up to `end` known."""
        while self._kept.known < end and not self._closing:
            extents = self._extents_of(self._kept.known)
            with self._changed:
                self._kept.tell({extent: disk_bytes(extent) for extent in extents})

    def _look_further(self) -> None:
        """Makes some more steps known, which decide what is evicted, until far enough."""
        enough = min(MOST_USES, USES_PER_KEPT * len(self._kept))
        if self._kept.known_uses < enough:
            self._tell(min(self._stop, self._kept.known + _EXTRA_STEPS * self._ahead))

    def _admit(self) -> list[Extent]:
        """Makes room for the next steps, as many as fit; what has to be fetched for them."""
        missing: list[Extent] = []
        while self._next < min(self._kept.known, self._kept.step + self._ahead + 1):
            for extent in self._kept.missing(self._next):
                leaving = self._kept.admit(extent, self._next)
                if leaving is None:
                    self._full_at = self._kept.step
                    if self._next == self._kept.step:
                        raise _too_small(self._kept.step_bytes(self._next), self._kept.limit)
                    return missing
                for victim in leaving:
                    self._cache.delete(victim)
                self._shards.storage.count(evictions=len(leaving))
                if not self._cache.adopt(extent):
                    self._misses += 1
                    self._on_the_way.add(extent)
                    missing.append(extent)
            self._shards.storage.count(cache_hits=len(self._kept.uses(self._next)) - self._misses)
            self._misses = 0
            self._next += 1
        return missing

    def _request(self, wanted: Range) -> None:
        def fetch() -> None:
            for extent, data in self._shards.fetch(wanted).items():
                if not self._closing:
                    self._cache.write(extent, data)

        def arrived(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            with self._changed:
                self._on_the_way.difference_update(wanted.extents)
                if error is not None:
                    self._failed.update(dict.fromkeys(wanted.extents, error))
                self._changed.notify_all()

        self._pool.submit(fetch).add_done_callback(arrived)

    def _check_limit(self, limit: int) -> None:
        largest = max((self._kept.step_bytes(step) for step in range(self._kept.step, self._kept.known)), default=0)
        if 2 * largest > limit:
            raise _too_small(largest, limit)


def _too_small(step_bytes: int, limit: int) -> UserError:
    return UserError(
        f"storage.cache_bytes={limit}, but the tracklets of one step of one worker take {step_bytes} bytes on the disk, and those"
        f" of the next are fetched meanwhile; set storage.cache_bytes={2 * step_bytes} or more"
    )
