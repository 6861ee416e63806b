"""Tracklets fetched from an object store, as files on a local disk.

A worker writes into a folder of its own, worker-<k>, which it holds by a lock; so nobody else evicts from it, and the limit of
each worker is kept without talking. It reads from its neighbours' folders too: what another worker of the machine has fetched is
hard-linked instead of fetched again, which costs no room and survives the other's eviction. Files appear by rename and end with a
checksum, so one torn by a crash counts as absent. A folder left by an earlier run is found and used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.metadata import DIGEST
from taudl_dist.errors import UserError

_BLOCK = 4096
_CHECKSUM_BYTES = 4
_MOST_WORKERS = 4096


def disk_bytes(extent: Extent) -> int:
    """Room that an extent's file takes: whole blocks."""
    return -(-(extent.length + _CHECKSUM_BYTES) // _BLOCK) * _BLOCK


class ExtentCache:
    """One worker's folder of one dataset; safe to share between threads, which never work on one extent at once.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, cache_dir: Path, digest: str) -> None:
        self._root, self._digest = cache_dir, digest
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            self._lock, worker = self._claim()
            self.folder = cache_dir / worker / digest
            for stranger in (cache_dir / worker).glob("*"):  # the limit is the worker's, not the dataset's
                if stranger.name != digest and DIGEST.fullmatch(stranger.name):  # nothing of anybody else's
                    shutil.rmtree(stranger)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        self._neighbours: list[Path] = []

    def close(self) -> None:
        """Lets another worker have the folder, with what is in it."""
        os.close(self._lock)

    def kept(self) -> Iterator[Extent]:
        """What an earlier run left here; what is no whole file is deleted."""
        for folder in self.folder.iterdir():
            if not folder.name.isdecimal():
                continue
            for entry in os.scandir(folder):
                offset, _, length = entry.name.partition("-")
                is_whole = offset.isdecimal() and length.isdecimal()
                if is_whole and entry.stat().st_size == int(length) + _CHECKSUM_BYTES:
                    yield Extent(int(folder.name), int(offset), int(length))
                else:
                    Path(entry.path).unlink()

    def read(self, extent: Extent) -> bytes | None:
        """The extent's bytes, or None if they are not here whole."""
        try:
            data = self._path(extent).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from None
        content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        return content if len(content) == extent.length and checksum == _checksum(content) else None

    def write(self, extent: Extent, data: bytes) -> None:
        """Stores an extent.

        Raises:
            UserError: the disk is full or not writable.
        """
        path = self._path(extent)
        temporary = path.with_name(f"{path.name}-tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            with temporary.open("wb", buffering=0) as file:
                file.write(data + _checksum(data))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise self._unusable(error) from None

    def adopt(self, extent: Extent) -> bool:
        """Takes an extent over from another worker's folder on this machine, if one has it."""
        path = self._path(extent)
        for neighbour in self._neighbours:
            try:
                os.link(neighbour / path.relative_to(self.folder), path)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    path.parent.mkdir()
                    return self.adopt(extent)
                continue
            except OSError:  # a file system without hard links
                return False
            return True
        return False

    def look_around(self) -> None:
        """Finds the folders of the other workers of this machine."""
        self._neighbours = [path for path in self._root.glob(f"worker-*/{self._digest}") if path != self.folder]

    def delete(self, extent: Extent) -> None:
        """Frees an extent's room."""
        try:
            self._path(extent).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def _path(self, extent: Extent) -> Path:
        return self.folder / f"{extent.shard}" / f"{extent.offset}-{extent.length}"

    def _claim(self) -> tuple[int, str]:
        """Lock and name of a free folder: one that holds this dataset, or else the first."""
        warm = {path.parent.name for path in self._root.glob(f"worker-*/{self._digest}")}
        names = [f"worker-{number}" for number in range(_MOST_WORKERS)]
        for name in itertools.chain(sorted(warm), names):
            descriptor = os.open(self._root / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            else:
                return descriptor, name
        raise UserError(f"{self._root}: {_MOST_WORKERS} workers use this cache folder; give each machine its own")

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"cache folder {self._root}: {error.strerror or error}; set storage.cache_dir to a writable folder with"
            " storage.cache_bytes of room for each worker of the machine, or lower storage.cache_bytes"
        )


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")
