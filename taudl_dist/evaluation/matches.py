"""Where the right answers of each query stand, by counting what stands before them instead of sorting the gallery.

A gallery in shards is counted shard by shard and the counts are added, so the ranks are exact however it is cut: first the matches
of all shards (`find_matches`), then what stands before each of them in every shard (`count_before`). Equal distances rank by
gallery position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import TILE_ELEMENTS, Distances, as_array

if TYPE_CHECKING:
    import torch

JUNK = -1
"""Identity of gallery items that count neither as right nor as wrong."""

_MAX_ROWS = 4096
"""Queries whose distances share a tile."""


class Labels:
    """Identities and cameras (N,) int64 of queries or of gallery items, checked once."""

    def __init__(self, side: str, ids: Any, cameras: Any) -> None:
        self.ids, self.cameras = _integers(f"{side} ids", ids), _integers(f"{side} cameras", cameras)
        if self.ids.ndim != 1 or self.ids.shape != self.cameras.shape:
            raise UserError(
                f"{side} ids have shape {self.ids.shape} and {side} cameras {self.cameras.shape}: expected two lists of one length"
            )

    def __len__(self) -> int:
        return len(self.ids)


def both_sides(query_ids: Any, gallery_ids: Any, query_cameras: Any, gallery_cameras: Any) -> tuple[Labels, Labels]:
    """Labels of queries and gallery; names of people or cameras are numbered."""
    ids = _numbered(query_ids, gallery_ids)
    cameras = _numbered(query_cameras, gallery_cameras)
    return Labels("query", ids[0], cameras[0]), Labels("gallery", ids[1], cameras[1])


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Right answers (P,): gallery items of the query's identity and another camera, ascending by query, distance, position."""

    query: np.ndarray
    distance: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


def find_matches(distances: Distances, queries: Labels, gallery: Labels, *, offset: int = 0) -> Matches:
    """The matches in a gallery, or in a shard of it that starts at position `offset`."""
    order = np.argsort(gallery.ids, kind="stable")
    ids = gallery.ids[order]
    start, stop = (np.searchsorted(ids, queries.ids, side=side) for side in ("left", "right"))
    count = np.where(queries.ids == JUNK, 0, stop - start)
    query = np.repeat(np.arange(len(queries)), count)
    within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    position = order[np.repeat(start, count) + within]
    is_other_camera = queries.cameras[query] != gallery.cameras[position]
    query, position = query[is_other_camera], position[is_other_camera]
    return _ordered(query, distances.exact(query, position), position + offset)


def merge(parts: Sequence[Matches]) -> Matches:
    """The matches of all shards."""
    return _ordered(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("query", "distance", "position"))
    )


def count_before(
    distances: Distances, queries: Labels, gallery: Labels, matches: Matches, *, offset: int = 0
) -> np.ndarray:
    """How many wrong answers of a gallery, or of a shard that starts at `offset`, stand before each match (P,) int64.

    Wrong are the items of other identities, distractors (0) among them. Junk and what the query's own camera saw of its person
    are in nobody's way; the matches themselves are known and not counted.
    """
    first = np.searchsorted(matches.query, np.arange(len(queries) + 1))
    before = np.zeros(len(matches), np.int64)
    for rows in _row_blocks(np.diff(first)):
        block = slice(first[rows.start], first[rows.stop])
        before[block] = _count_block(distances, queries, gallery, matches, rows, block, offset)
    return before


def ranking(
    distances: np.ndarray, query_id: int, query_camera: int, gallery_ids: np.ndarray, gallery_cameras: np.ndarray
) -> np.ndarray:
    """Gallery positions of one query (G,) in ranked order, without what the protocol drops."""
    order = np.argsort(distances, kind="stable")
    dropped = (gallery_ids == JUNK) | ((gallery_ids == query_id) & (gallery_cameras == query_camera))
    return order[~dropped[order]]


def _count_block(  # noqa: PLR0917
    distances: Distances, queries: Labels, gallery: Labels, matches: Matches, rows: slice, block: slice, offset: int
) -> np.ndarray:
    """`count_before` of the matches in `block`, which are those of the queries in `rows`."""
    import torch

    row = matches.query[block] - rows.start
    slot = np.arange(len(row)) - np.searchsorted(row, row)  # rank of a match among its query's matches
    bounds = _Bounds(row, slot, matches.distance[block], matches.position[block], num_rows=rows.stop - rows.start)
    counts = torch.zeros(bounds.distance.shape[0] * (bounds.width + 1), dtype=torch.int64)
    query_ids, gallery_ids = torch.from_numpy(queries.ids[rows, None]), torch.from_numpy(gallery.ids)
    for columns, tile, slack in distances.tiles(rows):
        ids = gallery_ids[columns].to(tile.device)
        is_wrong = (ids != query_ids.to(tile.device)) & (ids != JUNK)
        slots, is_close = bounds.search(tile, slack)
        close_row, close_column = (index.cpu().numpy() for index in torch.nonzero(is_close & is_wrong, as_tuple=True))
        if len(close_row):
            place = close_column + columns.start
            exact = distances.exact(close_row + rows.start, place)
            found = torch.from_numpy(bounds.search_exact(close_row, exact, place + offset))
            slots[torch.from_numpy(close_row), torch.from_numpy(close_column)] = found.to(slots)
        slots.masked_fill_(~is_wrong, bounds.width)
        slots += torch.arange(len(slots), device=slots.device)[:, None] * (bounds.width + 1)
        counts += torch.bincount(slots.flatten(), minlength=len(counts)).cpu()
    up_to = counts.view(-1, bounds.width + 1).cumsum(1).numpy()
    return up_to[row, slot]


class _Bounds:
    """The matches of a block of queries as rows of ascending bounds (q, width) between which the wrong answers fall."""

    def __init__(
        self, row: np.ndarray, slot: np.ndarray, distance: np.ndarray, position: np.ndarray, *, num_rows: int
    ) -> None:
        self.width = int(slot.max(initial=0)) + 1
        self.distance = np.full((num_rows, self.width), np.inf)
        self.distance[row, slot] = distance
        self.position = np.full((num_rows, self.width), np.iinfo(np.int64).max)
        self.position[row, slot] = position

    def search(self, tile: torch.Tensor, slack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First bound behind each distance of a tile (q, g), and whether that is a close call within `slack`."""
        import torch

        bounds = torch.from_numpy(self.distance).to(tile)
        slots = torch.searchsorted(bounds + slack, tile)
        nearest = torch.nn.functional.pad(bounds - slack, (0, 1), value=torch.inf).gather(1, slots)
        return slots, tile >= nearest

    def search_exact(self, row: np.ndarray, distance: np.ndarray, position: np.ndarray) -> np.ndarray:
        """First bound behind each item (n,) by distance and then position: a binary search in its row."""
        low, high = np.zeros(len(row), np.int64), np.full(len(row), self.width)
        for _ in range(self.width.bit_length()):
            middle = np.minimum((low + high) // 2, self.width - 1)
            bound, place = self.distance[row, middle], self.position[row, middle]
            is_before = ((bound < distance) | ((bound == distance) & (place < position))) & (low < high)
            low, high = np.where(is_before, middle + 1, low), np.where(is_before, high, np.minimum(high, middle))
        return low


def _row_blocks(num_matches: np.ndarray) -> Iterator[slice]:
    """Consecutive queries whose bounds, padded to the longest, stay small; queries without a match at an end are left out."""
    with_match = np.flatnonzero(num_matches)
    start = longest = 0
    for number, row in enumerate(with_match.tolist()):
        if number == 0:
            start = row
        wider = max(longest, int(num_matches[row]))
        if row > start and (row + 1 - start > _MAX_ROWS or (row + 1 - start) * wider > TILE_ELEMENTS // 4):
            yield slice(start, row)
            start, wider = row, int(num_matches[row])
        longest = wider
    if len(with_match):
        yield slice(start, int(with_match[-1]) + 1)


def _ordered(query: np.ndarray, distance: np.ndarray, position: np.ndarray) -> Matches:
    order = np.lexsort((position, distance, query))
    return Matches(query=query[order], distance=distance[order], position=position[order])


def _numbered(query: Any, gallery: Any) -> tuple[np.ndarray, np.ndarray]:
    sides = as_array(query), as_array(gallery)
    if not any(side.dtype.kind in "US" for side in sides):
        return sides
    numbers = np.unique(np.concatenate([side.ravel() for side in sides]), return_inverse=True)[1] + 1
    first, second = np.split(numbers, [sides[0].size])
    return first.reshape(sides[0].shape), second.reshape(sides[1].shape)


def _integers(name: str, values: Any) -> np.ndarray:
    array = as_array(values)
    if array.size and array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and (array % 1 == 0).all()):
        raise UserError(f"{name} are of type {array.dtype}, expected integers")
    return array.astype(np.int64)
