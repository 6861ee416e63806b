"""An object store through pyarrow.fs: ranges and whole files, read and written, each request bounded in time and repeated on failure.

A reply counts only with its full length and, for images, with sound tar headers; so what the network cut off or mangled is asked
for again. A file that is written appears whole or not at all. What no repetition can heal (no such object, no access) fails at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from taudl_dist.config import StorageConfig
from taudl_dist.dataset.location import split_remote
from taudl_dist.errors import UserError

if TYPE_CHECKING:
    from pyarrow import NativeFile, fs

Result = TypeVar("Result")

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_COPY_BYTES = 16 * 2**20
_SMALL_BYTES = 4 * 2**20
"""Up to this size a file is written by one request."""
_LARGEST_JSON = 2**30
_LISTING = 10
"""A listing takes a request for each thousand names, so it has so many times longer."""
_FILLINGS = (b"\xa5", b"\x5a")
_NO_ACCESS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT", "PERMISSION_DENIED",
              "UNAUTHENTICATED", "EXPIRED_TOKEN", "INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION_TOKEN", "HTTP code 401",
              "HTTP response code: 403", "HTTP response code: 401")  # fmt: skip
_NOT_THERE = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NOT_FOUND")


@dataclass(kw_only=True)
class ReadStats:
    """What reading from an object store cost one worker so far."""

    used_bytes: int = 0
    """Bytes of the tracklets that were read, as often as they were."""
    fetched_bytes: int = 0
    """Bytes asked of the store and received, gaps and repetitions included."""
    requests: int = 0
    """Requests made, repetitions included."""
    retries: int = 0
    """Requests made again because the one before failed."""
    tracklets: int = 0
    """Tracklets read."""
    cache_hits: int = 0
    """Tracklets that lay in the cache when their step came into sight, this worker's or a neighbour's on the machine."""
    evictions: int = 0
    """Tracklets deleted from the cache to make room."""
    refetched: int = 0
    """Tracklets whose copy in the cache was damaged or gone."""
    waited_s: float = 0.0
    """Seconds the worker's reading thread waited for data that had not arrived."""

    def as_dict(self) -> dict[str, float]:
        """All numbers, and bytes fetched over bytes used."""
        ratio = self.fetched_bytes / self.used_bytes if self.used_bytes else 0.0
        return {**asdict(self), "fetched_over_used": ratio}


class TransientError(OSError):
    """A failure that may pass: worth another attempt."""


class StoreError(UserError):
    """The store refused, or failed in every attempt."""


class MissingError(StoreError):
    """There is no such object."""


class WriteError(StoreError):
    """The store does not take what is written to it."""


class Storage:
    """A dataset's folder in an object store; safe to share between threads.

    Args:
        filesystem: a pyarrow file system, and `root` the folder in it.
        uri: how messages name the folder.
        max_open: files kept open.
        requests_to_open: what opening one costs.
    """

    def __init__(
        self,
        filesystem: fs.FileSystem,
        root: str,
        *,
        uri: str,
        config: StorageConfig,
        max_open: int = 100_000,
        requests_to_open: int = 1,
    ) -> None:
        self.uri = uri
        self.config = config
        self.stats = ReadStats()
        self._filesystem, self._root = filesystem, root
        self._lock = threading.Lock()
        self._max_open, self._requests_to_open = max_open, requests_to_open
        self._open: OrderedDict[str, NativeFile] = OrderedDict()
        self._broken: list[NativeFile] = []
        self._jitter = random.Random()  # its own, so that a user's seeded `random` is left alone

    def count(self, **more: float) -> None:
        """Adds to the statistics."""
        with self._lock:
            for name, value in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + value)

    def where(self, name: str) -> str:
        """The URI of a file of the dataset, without options."""
        return f"{self.uri}/{name}"

    def read_range(
        self, name: str, offset: int, length: int, *, file_bytes: int, check: Callable[[bytes], object] = lambda _: None
    ) -> bytes:
        """Bytes offset .. offset+length-1 of a file that has `file_bytes` in all.

        Args:
            check: raises UserError if the bytes are damaged.

        Raises:
            UserError: refused, missing, of another size, or failed in every attempt; with place and remedy.
        """

        def attempt() -> bytes:
            data = self._read(self._file(name, file_bytes), offset, length)
            try:
                check(data)
            except UserError as error:
                raise TransientError(f"received damaged data: {error}") from None
            return data

        return self._repeat(attempt, f"{self.where(name)}, offset {offset}, {length} bytes")

    def read_file(self, name: str) -> bytes:
        """A whole small file."""

        def attempt() -> bytes:
            with self._open_file(name) as file:
                size = file.size()
                if size > _LARGEST_JSON:
                    raise UserError(f"{self.where(name)}: {size} bytes, expected a small file; check the URI")
                return self._read(file, 0, size)

        return self._repeat(attempt, self.where(name))

    def copy_file(self, name: str, target: Path) -> None:
        """A whole file of any size, in ranges, to exactly this local path."""

        def size() -> int:
            with self._open_file(name) as file:
                return file.size()

        file_bytes = self._repeat(size, self.where(name))
        with target.open("wb") as copy:
            for offset in range(0, file_bytes, _COPY_BYTES):
                length = min(_COPY_BYTES, file_bytes - offset)
                copy.write(self.read_range(name, offset, length, file_bytes=file_bytes))
            copy.flush()
            os.fsync(copy.fileno())

    def files(self, folder: str = "", *, recursive: bool = False) -> dict[str, int]:
        """Size of each file in a folder (or below it), by its name in that folder; empty where there is no such folder."""
        return {name: info.size for name, info in self._list(folder, recursive=recursive).items() if info.is_file}

    def changed(self, folder: str) -> dict[str, float]:
        """When each file in a folder was written, in seconds since 1970."""
        return {name: info.mtime_ns / 1e9 for name, info in self._list(folder).items() if info.is_file}

    def entries(self) -> set[str]:
        """Names of the files and folders that stand directly in it."""
        return set(self._list(""))

    def _list(self, folder: str, *, recursive: bool = False) -> dict[str, fs.FileInfo]:
        from pyarrow import fs

        base = f"{self._root}/{folder}".rstrip("/")

        def attempt() -> dict[str, fs.FileInfo]:
            self.count(requests=1)
            found = self._filesystem.get_file_info(fs.FileSelector(base, recursive=recursive, allow_not_found=True))
            return {info.path.removeprefix(f"{base}/"): info for info in found}

        return self._repeat(attempt, f"{self.uri}/{folder}".rstrip("/"), timeout_s=_LISTING * self.config.timeout_s)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none. An empty name asks whether the root itself is a file."""
        from pyarrow import fs

        def attempt() -> int | None:
            self.count(requests=1)
            info = self._filesystem.get_file_info(f"{self._root}/{name}".rstrip("/"))
            return info.size if info.type == fs.FileType.File else None

        return self._repeat(attempt, self.where(name))

    def write_file(self, name: str, data: bytes | Path, *, is_own: bool = False) -> None:
        """Writes a whole file, or replaces it; what was there before stays until the new one is complete.

        Args:
            is_own: nobody looks at the name before the writer tells of it, so an incomplete file may stand there.

        Raises:
            WriteError: refused, or failed in every attempt.
        """
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size <= _SMALL_BYTES or is_own:
            self._put(name, data, size)
            return
        # pyarrow (25.0) completes an upload of many parts also after one of them failed, so a large file is seen under another name
        temporary = f"{name}.tmp-{secrets.token_hex(4)}"
        self._put(temporary, data, size)
        source, target = (f"{self._root}/{one}" for one in (temporary, name))
        self._repeat(
            lambda: self._filesystem.copy_file(source, target), self.where(name), timeout_s=self._time_for(size),
            error=WriteError,
        )  # fmt: skip
        self.delete(temporary)

    def delete(self, name: str) -> None:
        """Deletes a file; none is fine too."""

        def attempt() -> None:
            self.count(requests=1)
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.delete_file(f"{self._root}/{name}")

        self._repeat(attempt, self.where(name), error=WriteError)

    def _put(self, name: str, data: bytes | Path, size: int) -> None:
        from pyarrow import fs

        def attempt() -> None:
            self.count(requests=2)
            stream = self._filesystem.open_output_stream(f"{self._root}/{name}")
            try:
                for block in _blocks(data):
                    stream.write(block)
                stream.close()
            except OSError:
                self._give_up(stream)
                raise
            info = self._filesystem.get_file_info(f"{self._root}/{name}")
            if info.type != fs.FileType.File or info.size != size:
                raise TransientError(f"wrote {size} bytes, the store has {info.size}")

        self._repeat(attempt, self.where(name), timeout_s=self._time_for(size), error=WriteError)

    def _give_up(self, stream: NativeFile) -> None:
        """Closes a stream that failed; where that fails too it is kept, for its destructor would ask once more, holding Python's lock."""
        with contextlib.suppress(OSError):
            stream.close()
        if not stream.closed:
            self._broken.append(stream)

    def _time_for(self, size: int) -> float:
        return self.config.timeout_s * (1 + size / _COPY_BYTES)

    def _read(self, file: NativeFile, offset: int, length: int) -> bytes:
        """One request's answer, if it is whole.

        pyarrow (25.0) takes an answer shorter than asked for as whole and leaves the rest of the memory as it was. So the memory is
        filled beforehand; where its last byte looks untouched, a second request with another filling tells chance from a cut.
        """
        for filling in _FILLINGS if length else ():
            data = bytearray(filling * length)
            self.count(requests=1)
            with file.get_stream(offset, length) as stream:  # unlike seek and read, safe between threads
                received = stream.readinto(data)
            self.count(fetched_bytes=received)
            if received != length:
                raise TransientError(f"received {received} of {length} bytes")
            if data[-1:] != filling:
                return bytes(data)
        if length:
            raise TransientError(f"received less than {length} bytes")
        return b""

    def _file(self, name: str, file_bytes: int) -> NativeFile:
        """The file, kept open: opening costs a request, an open one 1.2 kB."""
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
        file = self._open_file(name)
        if file.size() != file_bytes:
            raise UserError(
                f"{self.where(name)}: {file.size()} bytes, expected {file_bytes}; the file is cut off or was replaced:"
                " upload it again"
            )
        with self._lock:
            self._open[name] = file
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)  # closed when the last thread that reads from it lets go
        return file

    def _open_file(self, name: str) -> NativeFile:
        self.count(requests=self._requests_to_open)
        return self._filesystem.open_input_file(f"{self._root}/{name}")

    def _repeat(
        self,
        attempt: Callable[[], Result],
        what: str,
        *,
        timeout_s: float | None = None,
        error: type[StoreError] = StoreError,
    ) -> Result:
        """The attempt's result, after pauses of 0.25, 0.5, 1 ... seconds, each shortened by chance by up to a half.

        Args:
            error: what is raised in the end.
        """
        attempts = self.config.attempts
        for number in range(attempts):
            try:
                return within(timeout_s or self.config.timeout_s, attempt)
            except UserError:
                raise
            except (OSError, ValueError) as problem:  # pyarrow also raises ValueError for files that failed to open
                failure = str(problem)
                _refuse_permanent(problem, what, error)
            if number + 1 < attempts:
                self.count(retries=1)
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**number)
                time.sleep(pause_s * (1 - self._jitter.random() / 2))
        raise error(
            f"{what}: failed in {attempts} attempts, at last with: {failure}; check the network and the store, then run the"
            " command again (taudl train goes on with --resume; there storage.attempts and storage.timeout_s can be raised)"
        )


def open_storage(uri: str, config: StorageConfig) -> Storage:
    """The object store behind a URI, with the credentials of the store's usual places.

    Raises:
        UsageError: a URI that is not understood, or with a secret in it.
        UserError: an S3 bucket whose region cannot be found out.
    """
    scheme, path, options = split_remote(uri)
    uri = f"{scheme}://{path}"
    if scheme == "s3":
        return Storage(_s3(path.split("/")[0], options, config), path, uri=uri, config=config)
    # Google's open file holds a connection, on which the whole object waits to be read
    return Storage(_gcs(options), path, uri=uri, config=config, max_open=64, requests_to_open=2)


def within(timeout_s: float, action: Callable[[], Result]) -> Result:
    """What the action returns or raises; TransientError if it takes longer.

    The store's own timeouts see silence only, not a reply that drips; so the action runs in a thread that can be left behind.
    """
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((action(), None))
        except BaseException as error:  # raised again in the caller
            answer.put((None, error))

    threading.Thread(target=run, name="taudl-request", daemon=True).start()
    try:
        value, error = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise TransientError(f"no complete reply within {timeout_s:g} s") from None
    if error is not None:
        raise error
    return value


def _s3(bucket: str, options: dict[str, str], config: StorageConfig) -> fs.FileSystem:
    from pyarrow import fs

    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint = options.get("endpoint_override") or next(filter(None, map(os.environ.get, variables)), None)
    region = options.get("region")
    if not region and not endpoint:
        try:
            region = within(config.timeout_s, lambda: fs.resolve_s3_region(bucket))
        except OSError as error:
            raise UserError(
                f"s3://{bucket}: its region cannot be found out ({error}); check the bucket's name and the network, or add"
                " ?region=REGION"
            ) from None
    return fs.S3FileSystem(
        anonymous=options.get("anonymous") == "true",
        region=region,
        connect_timeout=config.timeout_s,
        request_timeout=config.timeout_s,
        background_writes=False,
        allow_delayed_open=True,  # a small file is one request
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # ours are counted and bounded
        **_endpoint(endpoint, options),
    )


def _gcs(options: dict[str, str]) -> fs.FileSystem:
    import datetime

    from pyarrow import fs

    return fs.GcsFileSystem(
        anonymous=options.get("anonymous") == "true",
        retry_time_limit=datetime.timedelta(seconds=1),  # ours are counted and bounded
        **_endpoint(options.get("endpoint_override"), options),
    )


def _endpoint(address: str | None, options: dict[str, str]) -> dict[str, str]:
    """Host and scheme of the store's address, which may be written with its scheme or without."""
    if not address:
        return {}
    scheme = options.get("scheme") or (urlsplit(address).scheme if "://" in address else "https")
    return {"endpoint_override": address.split("://")[-1].rstrip("/"), "scheme": scheme}


def _blocks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        yield from iter(lambda: file.read(_COPY_BYTES), b"")


def _refuse_permanent(problem: OSError | ValueError, what: str, error: type[StoreError]) -> None:
    """Raises for what another attempt cannot change."""
    text, does_write = str(problem), issubclass(error, WriteError)
    if isinstance(problem, FileNotFoundError) or any(word in text for word in _NOT_THERE):
        if does_write:
            raise error(f"{what}: no such bucket; make it first, or correct its name") from None
        raise MissingError(
            f"{what}: no such object; check bucket and folder, and that the whole dataset was uploaded"
        ) from None
    if isinstance(problem, PermissionError) or any(word in text for word in _NO_ACCESS):
        raise error(
            f"{what}: access refused ({text}); check the credentials (for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
            f" AWS_SECRET_ACCESS_KEY, or ?anonymous=true) and what they may {'write' if does_write else 'read'}"
        ) from None
