"""What a dataset must not hold any more: the record of drops, which every later step of its making obeys."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.folder import Folder, read_if_there
from taudl_dist.errors import UsageError, UserError

DROPS_FILE = "drops.jsonl"
"""A line per drop, the oldest first."""


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Tracklets to forget: those of these keys, or those of these cameras that touch the time range.

    cameras: empty means all. from_s, to_s: seconds in the dataset's own times. keys: of tracklets; then nothing else is given.
    """

    cameras: tuple[str, ...] = ()
    from_s: float = -math.inf
    to_s: float = math.inf
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        has_range = self.from_s != -math.inf or self.to_s != math.inf
        if not (self.cameras or has_range or self.keys):
            raise UsageError("found nothing to drop; expected --camera, --from-time, --to-time or --tracklet")
        if self.keys and (self.cameras or has_range):
            raise UsageError("found --tracklet beside --camera or a time range; drop them one after the other")
        if math.isnan(self.from_s) or math.isnan(self.to_s) or self.from_s > self.to_s:
            raise UsageError(
                f"--from-time {self.from_s:g} --to-time {self.to_s:g}: expected a beginning and a later end"
            )

    def matches(self, rows: pa.Table) -> np.ndarray:
        """Which of the rows (columns camera, key, start_s, end_s) are to be forgotten, (n,) bool."""
        if self.keys:
            return _is_in(rows["key"], self.keys)
        touches = (rows["end_s"].to_numpy() >= self.from_s) & (rows["start_s"].to_numpy() <= self.to_s)
        return touches & _is_in(rows["camera"], self.cameras) if self.cameras else touches

    def to_json(self) -> dict[str, Any]:
        """Only what was given."""
        return {name: value for name, value in asdict(self).items() if value not in ((), -math.inf, math.inf)}


def from_json(content: dict[str, Any]) -> Forget:
    """The counterpart of `Forget.to_json`."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Forget(**fields)


def read_drops(folder: Folder) -> list[dict[str, Any]]:
    """The drops a dataset has seen.

    Raises:
        UserError: the record is damaged.
    """
    content = read_if_there(folder, DROPS_FILE) or b""
    try:
        return [json.loads(line) for line in content.decode().splitlines()]
    except ValueError as error:
        raise UserError(
            f"{folder}/{DROPS_FILE}: damaged ({error}); it tells what must stay forgotten: restore it from a copy"
        ) from None


def without_forgotten(crops: pa.Table, camera: str, drops: Sequence[Forget]) -> pa.Table:
    """The crops of a camera (columns key, time_s) without those of tracklets that were dropped before."""
    if not drops or not crops.num_rows:
        return crops
    spans = (
        crops.group_by("key")
        .aggregate([("time_s", "min"), ("time_s", "max")])
        .rename_columns(["key", "start_s", "end_s"])
    )
    spans = spans.append_column("camera", pa.array([camera] * spans.num_rows, pa.string()))
    gone = np.zeros(spans.num_rows, bool)
    for drop in drops:
        gone |= drop.matches(spans)
    return crops.filter(pa.array(~_is_in(crops["key"], spans["key"].filter(pa.array(gone)).to_pylist())))


def _is_in(column: pa.ChunkedArray, values: Sequence[str]) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.is_in(column, pa.array(values, pa.string())).to_numpy(zero_copy_only=False)
