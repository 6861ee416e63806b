"""Files that a corpus is made of: on a disk, or in an object store, where a video is read by ranges.

Reading in order fetches ahead, in ever larger ranges; a jump begins with a small one, so that the few key frames and tables a unit
needs of a long video do not cost the whole of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_tools.folder import storage_of
from taudl_dist.config import StorageConfig
from taudl_dist.dataset.location import is_remote, local_path
from taudl_dist.dataset.request_pool import RequestPool
from taudl_dist.dataset.storage import Storage
from taudl_dist.errors import UserError

_FIRST_BYTES = 256 * 2**10
_MOST_BYTES = 2 * 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A file below a folder of an object store; `str` names it in messages."""

    folder: str
    """URI, with the store's options."""
    name: str
    size: int

    def __str__(self) -> str:
        return self.storage.where(self.name)

    @property
    def storage(self) -> Storage:
        """The connection to its store, one in a process."""
        return storage_of(self.folder, StorageConfig())

    def absolute(self) -> RemoteFile:
        """Itself: a URI needs no working folder."""
        return self

    def read(self, offset: int, length: int) -> bytes:
        """A range of it."""
        return self.storage.read_range(self.name, offset, length, file_bytes=self.size) if length else b""


Source = Path | RemoteFile
"""A file of a corpus."""


def list_files(folder: str | Path) -> dict[PurePosixPath, Source]:
    """All files below a folder, by their path in it, in order; empty where there is no such folder."""
    if is_remote(folder):
        found = storage_of(str(folder), StorageConfig()).files(recursive=True)
        return {PurePosixPath(name): RemoteFile(str(folder), name, size) for name, size in sorted(found.items())}
    root = local_path(folder)
    found_here = {}
    for entry in root.iterdir() if root.is_dir() else ():
        below = (Path(place) / name for place, _, names in os.walk(entry) for name in names)
        for path in below if entry.is_dir() else (entry,):
            found_here[PurePosixPath(path.relative_to(root))] = path
    return dict(sorted(found_here.items()))


def shown(folder: str | Path) -> str:
    """How messages name a folder: without a URI's options."""
    return str(folder).partition("?")[0] if is_remote(folder) else str(folder)


def read_range(source: Source, offset: int, length: int) -> bytes:
    """Bytes of a file; fewer where it ends before."""
    if isinstance(source, RemoteFile):
        return source.read(offset, min(length, source.size - offset))
    with source.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def size_of(source: Source) -> int:
    """Bytes of a file."""
    return source.size if isinstance(source, RemoteFile) else source.stat().st_size


class SeekableFile:
    """A file of an object store, as PyAV reads one."""

    def __init__(self, source: RemoteFile) -> None:
        self.name = str(source)
        self._source = source
        self._position = 0
        self._block = (-1, b"")
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._pool = RequestPool(1)

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes from here; none at the end."""
        begin, block = self._block
        if not begin <= self._position < begin + len(block):
            begin, block = self._block = self._fetch()
        data = block[self._position - begin :][: None if size < 0 else size]
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to an offset; nothing is fetched before it is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def close(self) -> None:
        """Ends the requests that are under way."""
        self._pool.close()

    def _fetch(self) -> tuple[int, bytes]:
        """The block at the position; the one after it is asked for meanwhile, if reading goes on where it was."""
        at, end = self._position, self._block[0] + len(self._block[1])
        if self._ahead and self._ahead[0] == at:
            data = self._ahead[1].result()
        else:
            data = self._source.read(at, self._length_at(at, 2 * (end - self._block[0]) if at == end else _FIRST_BYTES))
        self._ahead = None
        length = self._length_at(at + len(data), 2 * len(data))
        if at == end and length:
            self._ahead = (at + len(data), self._pool.submit(lambda: self._source.read(at + len(data), length)))
        return at, data

    def _length_at(self, offset: int, length: int) -> int:
        return max(min(max(length, _FIRST_BYTES), _MOST_BYTES, self._source.size - offset), 0)


@contextmanager
def opened(source: Source) -> Iterator[str | SeekableFile]:
    """What PyAV opens for a video.

    Raises:
        UserError: no such file, or an empty one.
    """
    if isinstance(source, RemoteFile):
        if not source.size:
            raise UserError(f"{source}: the file is empty; copy or record it again")
        file = SeekableFile(source)
        try:
            yield file
        finally:
            file.close()
        return
    if not source.is_file():
        raise UserError(f"{source}: no such video file")
    if not source.stat().st_size:
        raise UserError(f"{source}: the file is empty; copy or record it again")
    yield str(source)
