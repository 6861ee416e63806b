"""Tracklets out of shards, local or remote: one read per tracklet, its tar headers checked, no index of single images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from taudl_dist.dataset.bounded import EXTENT_BYTES
from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.dataset import Dataset
from taudl_dist.dataset.shards import LocalShards, RemoteShards, Shards
from taudl_dist.dataset.tar import BLOCK, Member, damaged
from taudl_dist.errors import UserError


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
        self.remote = RemoteShards(dataset, dataset.storage) if dataset.storage else None
        """The object store the dataset lies in, or None."""
        self._shards: Shards = self.remote or LocalShards(dataset, max_open=max_open)

    def read(self, shard: int, offset: int, length: int) -> list[bytes]:
        """The JPEGs of one extent, in frame order.

        Raises:
            UserError: the shard is missing or cut off, the extent is not a whole tracklet, or the store fails.
        """
        extent = self.extent(shard, offset, length)
        return self._jpegs(self._shards.members(extent), extent)

    def stream(self, extents: Iterable[tuple[int, int, int]]) -> Iterator[list[bytes]]:
        """The JPEGs of many extents (shard, offset, length), in the order given; for what is read once."""
        checked, wanted = itertools.tee(self.extent(*extent) for extent in extents)
        for extent, members in zip(checked, self._shards.stream(wanted)):
            yield self._jpegs(members, extent)

    def read_sample(self, shard: int, offset: int, length: int) -> Sample:
        """One extent with everything that stands in it; checks that all members belong to one key."""
        extent = self.extent(shard, offset, length)
        members = self._shards.members(extent)
        key = members[-1][0].removesuffix(".json")
        try:
            meta = json.loads(members[-1][1])
            extensions = [name.removeprefix(f"{key}.") for name, _ in members]
            frames = [int(extension.removesuffix(".jpg")) for extension in extensions[:-1]]
            is_tracklet = isinstance(meta, dict)
        except (ValueError, RecursionError):
            is_tracklet = False
        if not is_tracklet:
            raise damaged(
                self._where(extent), f"members {[name for name, _ in members[:3]]}... do not form one tracklet"
            )
        return Sample(
            key=key,
            frames=frames,
            jpegs=[data for _, data in members[:-1]],
            meta=meta,
            members={extension: len(data) for extension, (_, data) in zip(extensions, members)},
        )

    def extent(self, shard: int, offset: int, length: int) -> Extent:
        """The same as an Extent.

        Raises:
            UserError: it does not lie inside a shard of the dataset.
        """
        extent = Extent(int(shard), int(offset), int(length))
        if not 0 <= extent.shard < len(self._dataset.shards):
            raise UserError(
                f"{self._dataset.location}: the manifest names shard number {shard}, but there are"
                f" {len(self._dataset.shards)}; run `taudl validate`, then make the dataset again"
            )
        size = self._dataset.info["shards"][extent.shard]["bytes"]
        if extent.offset < 0 or extent.length < 2 * BLOCK or extent.end > size:
            raise UserError(
                f"{self._where(extent)}: the tracklet's {length} bytes do not lie inside the file of {size} bytes; the"
                " manifest and the shard do not belong together: run `taudl validate`, then make the dataset again"
            )
        if extent.length > EXTENT_BYTES:
            raise UserError(f"{self._where(extent)}: a tracklet of {length} bytes, expected at most {EXTENT_BYTES}")
        return extent

    def _jpegs(self, members: list[Member], extent: Extent) -> list[bytes]:
        jpegs = [data for name, data in members if name.endswith(".jpg")]
        if len(jpegs) + 1 != len(members) or not members[-1][0].endswith(".json"):
            raise damaged(self._where(extent), f"{len(jpegs)} images and {len(members) - len(jpegs)} other members")
        return jpegs

    def _where(self, extent: Extent) -> str:
        return f"{self._dataset.shard_location(extent.shard)}, offset {extent.offset}"
