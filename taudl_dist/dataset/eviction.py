"""What a cache of known future keeps: the extent whose next use is farthest goes first (Belady 1966). Pure: no files, no clock.

The future is told step by step and as far as the caller likes; what is not used inside it counts as farther than all that is, and
among those the one used last goes first: epochs are orders of the same tracklets, so what was just shown comes back last.

Prefetching does no harm (Cao et al. 1995): nothing is dropped for an extent of step t that is itself needed at step t or before.
The price of fetching ahead is the room of the steps between use and fetch; fetched one step at a time this is Belady's cache.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

NEVER = 2**62


@dataclass
class _Step(Generic[Key]):
    sizes: dict[Key, int]
    next_uses: dict[Key, int] = field(default_factory=dict)


class FarthestNextUse(Generic[Key]):
    """The contents of a cache of `limit` bytes in which steps first, first+1, ... are used one after the other.

    Args:
        kept: what is in the cache already, with sizes; what goes over the limit is reported by `surplus`.
    """

    def __init__(self, limit: int, *, first: int = 0, kept: Mapping[Key, int] | None = None) -> None:
        self.limit = limit
        self.used = 0
        """Bytes of all that is in the cache or on its way there."""
        self._step = first
        self._known = first
        self._steps: dict[int, _Step[Key]] = {}
        self._last_use: dict[Key, int] = {}
        self._sizes: dict[Key, int] = {}
        self._next_use: dict[Key, int] = {}
        self._victims: list[tuple[int, int, Key]] = []
        self._entry: dict[Key, int] = {}
        self._clock = itertools.count()
        self._uses = 0
        for key, size in (kept or {}).items():
            self._insert(key, size, NEVER)

    def __contains__(self, key: Key) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def step(self) -> int:
        """The step in use."""
        return self._step

    @property
    def known(self) -> int:
        """First step that was not told yet."""
        return self._known

    @property
    def known_uses(self) -> int:
        """Uses told that are still to come."""
        return self._uses

    def tell(self, sizes: Mapping[Key, int]) -> None:
        """What the step `known` uses, with sizes in bytes."""
        step, self._known = self._known, self._known + 1
        self._steps[step] = _Step(dict(sizes))
        self._uses += len(sizes)
        for key in sizes:
            before = self._last_use.get(key)
            self._last_use[key] = step
            if before is not None:
                self._steps[before].next_uses[key] = step
            elif key in self._sizes:
                self._set_next_use(key, step)

    def step_bytes(self, step: int) -> int:
        """Bytes that a step uses: a smaller cache cannot hold it."""
        return sum(self._steps[step].sizes.values())

    def uses(self, step: int) -> Collection[Key]:
        """What a step uses; it was told and is not finished."""
        return self._steps[step].sizes.keys()

    def missing(self, step: int) -> list[Key]:
        """What a step uses that is not in the cache."""
        return [key for key in self._steps[step].sizes if key not in self._sizes]

    def admit(self, key: Key, step: int) -> list[Key] | None:
        """Takes in what `step` uses, and returns what has to leave for it; None, and nothing changes, if there is no room yet."""
        size = self._steps[step].sizes[key]
        leaving: list[Key] = []
        freed = 0
        while self.used + size - freed > self.limit:
            victim = self._farthest(beyond=step)
            if victim is None:
                for spared in reversed(leaving):
                    self._push(spared)
                return None
            leaving.append(victim)
            freed += self._sizes[victim]
        for victim in leaving:
            self._remove(victim)
        self._insert(key, size, step)
        return leaving

    def surplus(self) -> list[Key]:
        """Removes and returns what is over the limit."""
        leaving: list[Key] = []
        while self.used > self.limit:
            victim = self._farthest(beyond=self._step - 1)
            assert victim is not None
            leaving.append(victim)
            self._remove(victim)
        return leaving

    def forget(self, keys: Iterable[Key]) -> None:
        """Notes that these are no longer in the cache."""
        for key in keys:
            if key in self._sizes:
                self._remove(key)

    def finish(self) -> None:
        """The step in use is done; the next one begins."""
        done = self._steps.pop(self._step)
        self._uses -= len(done.sizes)
        for key in done.sizes:
            following = done.next_uses.get(key, NEVER)
            if following == NEVER:
                del self._last_use[key]
            if key in self._sizes:
                self._set_next_use(key, following)
        self._step += 1

    def _farthest(self, *, beyond: int) -> Key | None:
        """Takes the farthest extent off the heap, if its next use is later than step `beyond`."""
        while self._victims:
            next_use, entry, key = self._victims[0]
            if self._entry.get(key) != entry:
                heapq.heappop(self._victims)  # from before the extent was used or left
            elif -next_use <= beyond:
                return None
            else:
                heapq.heappop(self._victims)
                return key
        return None

    def _insert(self, key: Key, size: int, next_use: int) -> None:
        self._sizes[key] = size
        self.used += size
        self._set_next_use(key, next_use)

    def _remove(self, key: Key) -> None:
        self.used -= self._sizes.pop(key)
        del self._next_use[key], self._entry[key]

    def _set_next_use(self, key: Key, step: int) -> None:
        self._next_use[key] = step
        self._push(key)

    def _push(self, key: Key) -> None:
        self._entry[key] = -next(self._clock)
        heapq.heappush(self._victims, (-self._next_use[key], self._entry[key], key))
        if len(self._victims) > 4 * len(self._sizes) + 1000:
            self._victims = [entry for entry in self._victims if self._entry.get(entry[2]) == entry[1]]
            heapq.heapify(self._victims)
