"""Where a dataset is made: a folder on a disk, or one of an object store. In both a file appears whole or not at all.

A disk can rename, so an attempt at a unit that was thought dead and writes late replaces a shard by the same shard. A store cannot; there
every attempt writes under names of its own, once, and a reader chooses among the attempts that were completed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_tools.atomic import TEMPORARY, remove_leftovers, whole_file
from taudl_dist.config import StorageConfig
from taudl_dist.dataset.location import is_remote, local_path
from taudl_dist.dataset.request_pool import RequestPool
from taudl_dist.dataset.storage import MissingError, Storage, open_storage
from taudl_dist.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_ATTEMPT = re.compile(r"--[0-9a-f]{8}(?=\.|$)")
"""What the names of an attempt at a unit carry in a store; a unit's own name ends in digits."""


class Folder(Protocol):
    """A dataset's folder; `str` names it in messages. File names are relative to it, with at most one folder before them."""

    def names(self, part: str = "") -> dict[str, int]:
        """Bytes of each file directly in a folder of it, by name; empty where there is none."""

    def changed(self, part: str) -> dict[str, float]:
        """When each of these files was written, in seconds since 1970."""

    def entries(self) -> set[str]:
        """Names of files and folders directly in it.

        Raises:
            UserError: it is a file.
        """

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: there is none.
        """

    def whole_file(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; what stands there becomes the file when the block ends without an error."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, or replaces it."""

    def take(self, files: Mapping[str, Path]) -> None:
        """Moves many local files here, to the names given; nobody looks at them before something else is written that tells of them."""

    def remove(self, names: Iterable[str]) -> None:
        """Deletes files; those that are not there are fine too."""

    def remove_part(self, part: str) -> None:
        """Deletes the files of a folder of it, and the folder if nothing else is in it."""

    def prepare(self, parts: Iterable[str]) -> None:
        """Makes it and its folders, and deletes what killed attempts left unfinished there."""

    def attempt(self) -> str:
        """What an attempt at a unit appends to the unit's name."""

    def absolute(self) -> Folder:
        """The same for a process in another working folder."""

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of the calls, in order; made at the same time where each waits for a network."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self, part: str = "") -> dict[str, int]:
        return {name: found.st_size for name, found in self._files(part)}

    def changed(self, part: str) -> dict[str, float]:
        return {name: found.st_mtime for name, found in self._files(part)}

    def _files(self, part: str) -> Iterator[tuple[str, os.stat_result]]:
        if not (self.path / part).is_dir():
            return
        with os.scandir(self.path / part) as found:
            for entry in found:
                with suppress(FileNotFoundError):  # a temporary name that a worker gives up meanwhile
                    if entry.is_file():
                        yield entry.name, entry.stat()

    def entries(self) -> set[str]:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; expected a folder to write the dataset into")
        return {path.name for path in self.path.iterdir()} if self.path.exists() else set()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def whole_file(self, name: str) -> AbstractContextManager[Path]:
        return whole_file(self.path / name)

    def write(self, name: str, data: bytes) -> None:
        with self.whole_file(name) as temporary:
            temporary.write_bytes(data)

    def take(self, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            shutil.move(path, self.path / name)
        os.sync()  # once, where a sync of each of 10^5 files would take minutes

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def remove_part(self, part: str) -> None:
        self.remove(f"{part}/{name}" for name in list(self.names(part)))
        with suppress(OSError):  # gone already, or somebody keeps something in it
            (self.path / part).rmdir()

    def prepare(self, parts: Iterable[str]) -> None:
        for part in ("", *parts):
            (self.path / part).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path / part)

    def attempt(self) -> str:
        return ""

    def absolute(self) -> LocalFolder:
        return LocalFolder(self.path.resolve())

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(call, items)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store, by its URI; any process that has the store's credentials can open it."""

    uri: str
    config: StorageConfig = field(default_factory=StorageConfig)

    def __str__(self) -> str:
        return self.storage.uri

    @property
    def storage(self) -> Storage:
        """The connection, one in a process."""
        return storage_of(self.uri, self.config)

    def names(self, part: str = "") -> dict[str, int]:
        return self.storage.files(part)

    def changed(self, part: str) -> dict[str, float]:
        return self.storage.changed(part)

    def entries(self) -> set[str]:
        if self.storage.size("") is not None:
            raise UserError(f"{self}: is a file; expected a folder to write the dataset into")
        return self.storage.entries()

    def read(self, name: str) -> bytes:
        try:
            return self.storage.read_file(name)
        except MissingError as error:
            raise FileNotFoundError(str(error)) from None

    @contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="taudl-") as folder:
            temporary = Path(folder) / "file"
            yield temporary
            self.storage.write_file(name, temporary, is_own=_ATTEMPT.search(name) is not None)

    def write(self, name: str, data: bytes) -> None:
        self.storage.write_file(name, data)

    def take(self, files: Mapping[str, Path]) -> None:
        for _ in self.map(lambda item: self.storage.write_file(*item), files.items()):
            pass

    def remove(self, names: Iterable[str]) -> None:
        for _ in self.map(self.storage.delete, names):
            pass

    def remove_part(self, part: str) -> None:
        self.remove(f"{part}/{name}" for name in self.names(part))

    def prepare(self, parts: Iterable[str]) -> None:
        for part in ("", *parts):
            unfinished = [name for name in self.names(part) if TEMPORARY in name]
            self.remove(f"{part}/{name}".lstrip("/") for name in unfinished)

    def attempt(self) -> str:
        return f"--{secrets.token_hex(4)}"

    def absolute(self) -> RemoteFolder:
        return self

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        pool, waiting = RequestPool(self.config.requests), deque[Future[Result]]()
        try:
            for item in items:  # replies that nobody has asked for yet are bounded, whatever the number of items
                waiting.append(pool.submit(lambda item=item: call(item)))  # type: ignore[misc]
                if len(waiting) > 2 * self.config.requests:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.close()


def open_folder(out: str | Path) -> LocalFolder | RemoteFolder:
    """The folder of a path or URI; nothing is made yet.

    Raises:
        UsageError: a URI that is not understood, or with a secret in it.
    """
    return RemoteFolder(str(out)) if is_remote(out) else LocalFolder(local_path(out))


@cache
def storage_of(uri: str, config: StorageConfig) -> Storage:
    """The store behind a URI, opened once in a process."""
    return open_storage(uri, config)


def attempt_of(stem: str) -> tuple[str, bool]:
    """The unit of an attempt's name, and whether the name is an attempt's at all.

    >>> attempt_of("cam1-train-00000--0f3a9c1e"), attempt_of("cam1-train-00000")
    (('cam1-train-00000', True), ('cam1-train-00000', False))
    """
    match = _ATTEMPT.search(stem)
    return (stem[: match.start()], True) if match else (stem, False)


def read_if_there(folder: Folder, name: str) -> bytes | None:
    """A whole file; None where there is none."""
    try:
        return folder.read(name)
    except FileNotFoundError:
        return None


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    folder.write(name, f"{_as_lines(value)}\n".encode())


def _as_lines(value: Any, depth: int = 2) -> str:
    """JSON with a line per item down to some depth; json's own indentation is slow where 10^5 items are written."""
    if not depth or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, dict):
        items, ends = [f"{json.dumps(name)}: {_as_lines(item, depth - 1)}" for name, item in value.items()], "{}"
    else:
        items, ends = [_as_lines(item, depth - 1) for item in value], "[]"
    return ends[0] + "\n" + ",\n".join(items) + "\n" + ends[1]
