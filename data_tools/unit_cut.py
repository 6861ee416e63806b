"""A camera's planned crops, cut into units: runs of tracklets of one time window, enough for one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.recordings import Recording, stamp
from data_tools.shard_writer import safe_name
from data_tools.sources import ShardSettings
from data_tools.video import FrameIndex, Route, find_route, num_decoded
from taudl_dist.dataset.schema import hash_table

CROPS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("splits", pa.string()),
        ("label", pa.int64()),
        ("person_id", pa.int64()),
        ("track", pa.int64()),
        ("frame", pa.int64()),
        ("time_s", pa.float64()),
        *((name, pa.int32()) for name in ("x1", "y1", "x2", "y2")),
        ("recording", pa.int32()),
    ]
)
"""A row per crop of a unit, in order of (key, frame). `splits` joins split names with +. label: grows with (instant, track) within
a camera. Boxes are clipped, whole pixels. recording: position among the unit's recordings, and `frame` counts in it."""

ROUTE_FIELDS = tuple(pa.field(name, pa.int64()) for name in ("stamp", "key_frame", "key_stamp", "seek_stamp"))
"""What follows in the tables of units, as in `Route`; null where the file can only be read from the beginning."""

PURPOSES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The tracklets of one shard. window: its beginning in seconds, 0 for a camera without a clock."""

    name: str
    camera: str
    purpose: str
    window: float
    number: int
    crops: pa.Table
    recordings: list[Recording]

    def describe(self, total: Any) -> dict[str, Any]:
        """What plan.json says of it; `total` is a hashlib object that has been fed all else that its bytes depend on."""
        hash_table(total, self.crops)
        sources = []
        for position, recording in enumerate(self.recordings):
            crops = self.crops.filter(pc.equal(self.crops["recording"], position))
            frames, route = frames_of(crops)
            decoded = num_decoded(frames, route)
            first, last = int(frames[0]), int(frames[-1])
            sources.append({"recording": recording.name, "first_frame": first, "last_frame": last, "decoded": decoded})
        facts = {name: getattr(self, name) for name in ("name", "camera", "purpose", "window", "number")}
        counts = {"tracklets": len(self.crops["key"].unique()), "crops": self.crops.num_rows}
        return {**facts, **counts, "sources": sources, "digest": total.hexdigest()}


def cut_units(
    camera: str,
    tables: Sequence[pa.Table],
    recordings: Sequence[Recording],
    *,
    settings: ShardSettings,
    taken: Mapping[tuple[str, str, float], int],
) -> list[Unit]:
    """The units of a camera: training and test apart, windows apart, in runs of about `crops_per_shard` crops.

    Args:
        tables: the crops of each of the recordings, with their routes; recordings are in order of start.
        taken: the first free number by (camera, purpose, window), where an earlier plan has units.
    """
    crops = pa.concat_tables(
        table.set_column(
            table.schema.get_field_index("recording"), "recording", pa.array(np.full(table.num_rows, at, np.int32))
        )
        for at, table in enumerate(tables)
    )
    is_training = pc.equal(crops["splits"], "train")
    units = []
    for purpose, part in zip(PURPOSES, (crops.filter(is_training), crops.filter(pc.invert(is_training)))):
        for window, position, rows in _runs(part, recordings[0].start_s is not None, settings):
            number = position + taken.get((camera, purpose, window), 0)
            when = "" if recordings[0].start_s is None else f"-{stamp(window)}"
            units.append(
                _unit(
                    rows, recordings, name=f"{safe_name(camera)}{when}-{purpose}-{number:05d}", camera=camera,
                    purpose=purpose, window=window, number=number,
                )
            )  # fmt: skip
    return units


def _runs(part: pa.Table, has_clock: bool, settings: ShardSettings) -> list[tuple[float, int, pa.Table]]:
    """(window, number in it, crops) of each unit: tracklets in order of their first crop."""
    if not part.num_rows:
        return []
    tracklets = part.group_by("key").aggregate([("frame", "min"), ("time_s", "min"), ("frame", "count")])
    first = "time_s_min" if has_clock else "frame_min"
    tracklets = tracklets.sort_by([(first, "ascending"), ("key", "ascending")])
    begin_s = tracklets["time_s_min"].to_numpy()
    window = np.floor(begin_s / settings.window_s) * settings.window_s if has_clock else np.zeros(len(begin_s))
    count = tracklets["frame_count"].to_numpy()
    before = np.cumsum(count) - count
    number = (before - before[np.searchsorted(window, window)]) // settings.crops_per_shard
    is_new = np.concatenate([[True], (np.diff(window) != 0) | (np.diff(number) != 0)])
    run = np.cumsum(is_new) - 1
    of_row = run[pc.index_in(part["key"], tracklets["key"].combine_chunks()).to_numpy()]
    part = part.append_column("run", pa.array(of_row)).sort_by(
        [(name, "ascending") for name in ("run", "key", "frame")]
    )
    bounds = np.searchsorted(part["run"].to_numpy(), np.arange(run[-1] + 2))
    part = part.drop_columns(["run"])
    heads = np.flatnonzero(is_new)
    return [
        (float(window[head]), int(number[head]), part.slice(start, stop - start).combine_chunks())
        for head, start, stop in zip(heads.tolist(), bounds[:-1].tolist(), bounds[1:].tolist())
    ]


def _unit(rows: pa.Table, recordings: Sequence[Recording], **about: Any) -> Unit:
    used, position = np.unique(rows["recording"].to_numpy(), return_inverse=True)
    at = rows.schema.get_field_index("recording")
    rows = rows.set_column(at, "recording", pa.array(position.astype(np.int32)))
    return Unit(crops=rows, recordings=[recordings[one] for one in used.tolist()], **about)


def with_routes(crops: pa.Table, index: FrameIndex | None) -> pa.Table:
    """The crops of one recording with ROUTE_FIELDS."""
    frame = crops["frame"].to_numpy()
    if index is None or frame.max(initial=-1) >= len(index.stamps):
        columns = [pa.nulls(len(crops), pa.int64())] * len(ROUTE_FIELDS)
    else:
        route = find_route(index, frame)
        columns = [pa.array(values, pa.int64()) for values in vars(route).values()]
    for field, values in zip(ROUTE_FIELDS, columns):
        crops = crops.append_column(field, values)
    return crops


def frames_of(crops: pa.Table) -> tuple[np.ndarray, Route | None]:
    """The frames that the crops of one recording lie in, each once and ascending, and the way to them."""
    wanted, first = np.unique(crops["frame"].to_numpy(), return_index=True)
    if crops["stamp"].null_count:
        return wanted, None
    stamps, keys, key_stamps, seek_stamps = (crops[field.name].to_numpy()[first] for field in ROUTE_FIELDS)
    return wanted, Route(stamps=stamps, keys=keys, key_stamps=key_stamps, seek_stamps=seek_stamps)
