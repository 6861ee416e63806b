"""Tracklets from shards: one pread per tracklet, its tar headers checked, no index of single images.

Costs one open file per shard in use (bounded) and a checksum over each 512-byte header (the images are checked by decoding).
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.dataset.dataset import Dataset
from taudl_dist.errors import UserError

_BLOCK = 512
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One tracklet as it lies in a tar: JPEGs in frame order, their frame numbers, the content of <key>.json.

    `members`: size in bytes of every member by its extension, in tar order.
    """

    key: str
    frames: list[int]
    jpegs: list[bytes]
    meta: dict[str, Any]
    members: dict[str, int]


class TrackletReader:
    """Reads tracklets of a dataset by their extent; safe to share between threads."""

    def __init__(self, dataset: Dataset, *, max_open: int = 256) -> None:
        self._dataset = dataset
        self._max_open = max_open
        self._open: OrderedDict[int, _ShardFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> list[bytes]:
        """The JPEGs of one extent, in frame order.

        Raises:
            UserError: the shard is missing or cut off, or the extent is not a whole tracklet.
        """
        members, where = self._members(int(shard), int(offset), int(length))
        jpegs = [data for name, data in members if name.endswith(".jpg")]
        if len(jpegs) + 1 != len(members) or not members[-1][0].endswith(".json"):
            raise _damaged(where, f"{len(jpegs)} images and {len(members) - len(jpegs)} other members")
        return jpegs

    def read_sample(self, shard: int, offset: int, length: int) -> Sample:
        """One extent with everything that stands in it; checks that all members belong to one key."""
        members, where = self._members(int(shard), int(offset), int(length))
        key = members[-1][0].removesuffix(".json")
        try:
            meta = json.loads(members[-1][1])
            extensions = [name.removeprefix(f"{key}.") for name, _ in members]
            frames = [int(extension.removesuffix(".jpg")) for extension in extensions[:-1]]
            is_tracklet = isinstance(meta, dict)
        except (ValueError, RecursionError):
            is_tracklet = False
        if not is_tracklet:
            raise _damaged(where, f"members {[name for name, _ in members[:3]]}... do not form one tracklet")
        return Sample(
            key=key,
            frames=frames,
            jpegs=[data for _, data in members[:-1]],
            meta=meta,
            members={extension: len(data) for extension, (_, data) in zip(extensions, members)},
        )

    def _members(self, shard: int, offset: int, length: int) -> tuple[list[tuple[str, bytes]], str]:
        if not 0 <= shard < len(self._dataset.shards):
            raise UserError(
                f"{self._dataset.path}: the manifest names shard number {shard}, but there are"
                f" {len(self._dataset.shards)}; run `taudl validate`, then make the dataset again"
            )
        file = self._file(shard)
        where = f"{file.path}, offset {offset}"
        if offset < 0 or length < 2 * _BLOCK or offset + length > file.size:
            raise UserError(
                f"{where}: the tracklet's {length} bytes do not lie inside the file of {file.size} bytes; the manifest and"
                " the shard do not belong together: run `taudl validate`, then make the dataset again"
            )
        return parse_members(os.pread(file.descriptor, length, offset), where), where

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
        self.size = os.fstat(self.descriptor).st_size
        if self.size != expected_bytes:
            raise UserError(
                f"{path}: {self.size} bytes, but dataset.json says {expected_bytes}; the shard is cut off or was replaced:"
                " run `taudl validate`, then make the dataset again"
            )

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def parse_members(data: bytes, where: str) -> list[tuple[str, bytes]]:
    """(name, content) of each USTAR member in `data`, which begins with a header and ends with a member's padding.

    Raises:
        UserError: a damaged header, or members that do not fill the data exactly.
    """
    members: list[tuple[str, bytes]] = []
    position = 0
    while position < len(data) or not members:
        header = data[position : position + _BLOCK]
        key = members[-1][0] if members else "its first member"
        size = _octal(header[124:136])
        if len(header) < _BLOCK or header[257:262] != b"ustar" or size is None or not _checksum_holds(header):
            raise _damaged(where, f"a broken tar header {position} bytes further, after {key}")
        begin = position + _BLOCK
        position = begin + -(-size // _BLOCK) * _BLOCK
        if position > len(data):
            raise _damaged(where, f"a member larger than the tracklet, after {key}")
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        members.append((name, data[begin : begin + size]))
    return members


def _checksum_holds(header: bytes) -> bool:
    return _octal(header[_CHECKSUM]) == sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """The number of a header's field, or None: int() alone would also take a sign, and a negative size never ends."""
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _damaged(where: str, what: str) -> UserError:
    return UserError(f"{where}: not a whole tracklet: {what}; run `taudl validate`, then make the dataset again")
