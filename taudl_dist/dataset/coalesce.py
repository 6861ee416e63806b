"""Which extents are worth fetching in one request. Pure: no storage, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

GAP_BYTES = 128 * 1024
"""Bytes between two extents that are fetched for nothing rather than in a request of their own: about what a connection carries
in the time to a request's first byte."""
RANGE_BYTES = 8 * 2**20
"""Most bytes of one request that joins extents: larger ones would hold back what is needed first."""


class Extent(NamedTuple):
    """A tracklet's place: number of the shard, first byte, number of bytes."""

    shard: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bytes of a shard that one request asks for, and the extents in them."""

    shard: int
    offset: int
    length: int
    extents: list[Extent]


def coalesce(extents: Iterable[Extent], *, gap_bytes: int = GAP_BYTES, range_bytes: int = RANGE_BYTES) -> list[Range]:
    """Ranges that cover the extents, neighbours with small gaps together; in the order of each range's first extent as given."""
    wanted = list(dict.fromkeys(extents))
    urgency = {extent: position for position, extent in enumerate(wanted)}
    runs: list[list[Extent]] = []
    end = 0
    for extent in sorted(wanted):
        run = runs[-1] if runs else None
        joins = (
            run is not None
            and extent.shard == run[0].shard
            and extent.offset - end <= gap_bytes
            and extent.end - run[0].offset <= range_bytes
        )
        if run is not None and joins:
            run.append(extent)
            end = max(end, extent.end)
        else:
            runs.append([extent])
            end = extent.end
    runs.sort(key=lambda run: min(urgency[extent] for extent in run))
    return [
        Range(shard=run[0].shard, offset=run[0].offset, length=max(e.end for e in run) - run[0].offset, extents=run)
        for run in runs
    ]
