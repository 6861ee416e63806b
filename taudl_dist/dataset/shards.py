"""Where a tracklet's bytes come from: a tar on a local disk, or an object store with a cache before it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Protocol

from taudl_dist.dataset.coalesce import Extent, Range, coalesce
from taudl_dist.dataset.dataset import Dataset
from taudl_dist.dataset.extent_cache import ExtentCache
from taudl_dist.dataset.request_pool import RequestPool
from taudl_dist.dataset.schema import SHARDS_DIR
from taudl_dist.dataset.storage import ReadStats, Storage
from taudl_dist.dataset.tar import Member, parse_members
from taudl_dist.errors import UserError

_STREAM_WINDOW = 128


class Shards(Protocol):
    """Gives out the members of extents that lie inside their shards."""

    def members(self, extent: Extent) -> list[Member]:
        """(name, content) of each member of a tracklet's extent."""

    def stream(self, extents: Iterable[Extent]) -> Iterator[list[Member]]:
        """`members` of many extents, in the order given."""


class LocalShards:
    """Tars on a local disk: one pread per tracklet, and one open file per shard in use (bounded)."""

    def __init__(self, dataset: Dataset, *, max_open: int) -> None:
        self._dataset = dataset
        self._max_open = max_open
        self._open: OrderedDict[int, _ShardFile] = OrderedDict()
        self._lock = threading.Lock()

    def members(self, extent: Extent) -> list[Member]:
        file = self._file(extent.shard)
        return parse_members(
            os.pread(file.descriptor, extent.length, extent.offset), f"{file.path}, offset {extent.offset}"
        )

    def stream(self, extents: Iterable[Extent]) -> Iterator[list[Member]]:
        return map(self.members, extents)

    def _file(self, shard: int) -> _ShardFile:
        with self._lock:
            file = self._open.pop(shard, None)
            if file is None:
                file = _ShardFile(self._dataset.shard_path(shard), self._dataset.info["shards"][shard]["bytes"])
            self._open[shard] = file
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)  # closed when the last thread that reads from it lets go
            return file


class _ShardFile:
    """An open tar that closes itself with its last reference, so that eviction cannot pull it from under a reader."""

    descriptor = -1

    def __init__(self, path: Path, expected_bytes: int) -> None:
        self.path = path
        if not path.is_file():  # a pipe would block for ever
            raise UserError(f"{path}: shard is missing; run `taudl validate`, then make the dataset again")
        self.descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(self.descriptor).st_size
        if size != expected_bytes:
            raise UserError(
                f"{path}: {size} bytes, but dataset.json says {expected_bytes}; the shard is cut off or was replaced:"
                " run `taudl validate`, then make the dataset again"
            )

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class RemoteShards:
    """Tars in an object store. An extent is one request, or comes from `cache` while that is set (see FetchAhead)."""

    def __init__(self, dataset: Dataset, storage: Storage) -> None:
        self.dataset, self.storage = dataset, storage
        self.cache: ExtentCache | None = None

    @property
    def stats(self) -> ReadStats:
        """What reading cost so far, opening the dataset included."""
        return self.storage.stats

    def members(self, extent: Extent) -> list[Member]:
        self.storage.count(tracklets=1, used_bytes=extent.length)
        cache = self.cache
        data = cache.read(extent) if cache else None
        if data is None:
            if cache:
                self.storage.count(refetched=1)
            data = self.fetch(coalesce([extent])[0])[extent]
        return parse_members(data, self._where(extent))

    def stream(self, extents: Iterable[Extent]) -> Iterator[list[Member]]:
        """Reads some hundred extents ahead, neighbours in one request; keeps nothing on disk."""
        rest = iter(extents)
        pool = RequestPool(self.storage.config.requests)
        windows: deque[dict[Extent, Future[dict[Extent, bytes]]]] = deque()
        try:
            while True:
                while len(windows) < 2 and (window := list(islice(rest, _STREAM_WINDOW))):
                    windows.append(self._request(window, pool))
                if not windows:
                    return
                for extent, reply in windows.popleft().items():
                    self.storage.count(tracklets=1, used_bytes=extent.length)
                    yield parse_members(reply.result()[extent], self._where(extent))
        finally:
            pool.close()

    def fetch(self, wanted: Range) -> dict[Extent, bytes]:
        """The bytes of the extents of one request, with sound tar headers.

        Raises:
            UserError: the store refused, or failed in every attempt.
        """

        def part(data: bytes, extent: Extent) -> bytes:
            start = extent.offset - wanted.offset
            return data[start : start + extent.length]

        def check(data: bytes) -> None:
            for extent in wanted.extents:
                parse_members(part(data, extent), self._where(extent))

        name, file_bytes = self.dataset.shards[wanted.shard], self.dataset.info["shards"][wanted.shard]["bytes"]
        data = self.storage.read_range(
            f"{SHARDS_DIR}/{name}", wanted.offset, wanted.length, file_bytes=file_bytes, check=check
        )
        return {extent: part(data, extent) for extent in wanted.extents}

    def _request(self, window: list[Extent], pool: RequestPool) -> dict[Extent, Future[dict[Extent, bytes]]]:
        replies = {}
        for wanted in coalesce(window):
            reply = pool.submit(lambda wanted=wanted: self.fetch(wanted))  # type: ignore[misc]
            replies.update(dict.fromkeys(wanted.extents, reply))
        return {extent: replies[extent] for extent in window}

    def _where(self, extent: Extent) -> str:
        return f"{self.dataset.shard_location(extent.shard)}, offset {extent.offset}"
