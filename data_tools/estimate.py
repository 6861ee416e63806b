"""What `taudl shard` would do, without doing it: the plan in numbers, and time and bytes from a second of real decoding."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.corpus import read_state, units_to_do
from data_tools.corpus_plan import Inputs, Policy, plan_corpus
from data_tools.crop_tables import CropTables
from data_tools.crops import encode_crop
from data_tools.folder import open_folder
from data_tools.plan import log_plan
from data_tools.sources import ShardSettings, Sources
from data_tools.unit_cut import frames_of
from data_tools.video import iter_pictures, num_decoded
from taudl_dist.errors import UserError
from taudl_dist.progress import log

_SAMPLE_S = 1.0
_MEMBER_BYTES = 512 + 256  # a tar header, and half a block of padding


def estimate(
    inputs: Inputs, out: str | Path, *, settings: ShardSettings, policy: Policy, workers: int
) -> dict[str, Any]:
    """The plan in numbers, ready for JSON. frames: decoded for it; bytes and seconds are None where there is nothing to measure.

    Raises:
        UserError: as `shard_corpus`.
    """
    folder = open_folder(out)
    plan, made, sources = plan_corpus(inputs, folder, settings=settings, policy=policy)
    log_plan(plan)
    state = read_state(folder, plan)
    todo = units_to_do(state, plan, policy)
    frames, crops = sum(_frames(unit) for unit in todo), sum(unit["crops"] for unit in todo)
    measured = _measure(made.crops, todo, sources, settings) if made else None
    return {
        "videos": len(plan["recordings"]),
        "videos_failed": len(plan["failed"]),
        "hours": sum(one["duration_s"] for one in plan["recordings"].values()) / 3600,
        "cameras": len(plan["cameras"]),
        "interval_s": plan["interval_s"],
        "tracklets": sum(unit["tracklets"] for unit in plan["units"]),
        "crops": sum(unit["crops"] for unit in plan["units"]),
        "units": len(plan["units"]),
        "is_finished": state.is_finished,
        "units_to_do": len(todo),
        "frames_to_decode": frames,
        "bytes_to_write": round(crops * measured["bytes_per_crop"]) if measured else None,
        "seconds": round(frames / measured["frames_per_s"] / workers, 3) if measured else None,
        "workers": workers,
        "plan": plan["digest"],
    }


def estimate_table(found: dict[str, Any]) -> str:
    """The estimate as text."""
    lines = [
        f"videos     {found['videos']} of {found['cameras']} cameras, {found['hours']:.2f} h; {found['videos_failed']} cannot be used",
        f"tracklets  {found['tracklets']} in {found['crops']} crops, P = {found['interval_s']:g} s",
        f"units      {found['units']}, of which {found['units_to_do']} are to do ({found['frames_to_decode']} frames to decode)",
    ]
    if found["seconds"] is not None:
        lines.append(
            f"estimate   {found['bytes_to_write'] / 1e6:.1f} MB in {found['seconds']:.0f} s with {found['workers']} workers like this one"
            " (from a second of decoding)"
        )
    if found["is_finished"] and not found["units_to_do"]:
        lines.append("finished   already; there is nothing to do")
    return "\n".join([*lines, "nothing was written (--dry-run)"])


def _frames(unit: dict[str, Any]) -> int:
    return sum(source["decoded"] for source in unit["sources"])


def _measure(
    crops: CropTables, todo: list[dict[str, Any]], sources: Sources, settings: ShardSettings
) -> dict[str, float] | None:
    """Frames decoded a second, with their crops, and bytes of a crop in its tar; None where nothing could be decoded."""
    videos = {one.name: one.source for one in sources.recordings}
    frames = num_crops = size = 0
    started = time.perf_counter()
    for unit in (one for one in todo if one["name"] in crops):
        source, table = unit["sources"][0], crops[unit["name"]]
        table = table.filter(pa.array(table["recording"].to_numpy() == 0)).sort_by("frame")
        frame = table["frame"].to_numpy()
        boxes = np.stack([table[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
        (wanted, route), seen = frames_of(table), 0
        try:
            for index, picture in iter_pictures(videos[source["recording"]], wanted=wanted, route=route):
                seen += 1
                for row in np.flatnonzero(frame == index):
                    size += len(encode_crop(picture.cut(boxes[row]), max_height=settings.max_height)) + _MEMBER_BYTES
                    num_crops += 1
                if time.perf_counter() - started > _SAMPLE_S:
                    break
        except UserError as error:  # the run will list the tracklets that this costs, and do the others
            log(f"estimate: {error}")
        frames += num_decoded(wanted[:seen], route and route.first(seen))
        if time.perf_counter() - started > _SAMPLE_S:
            break
    if not num_crops:
        return None
    return {
        "frames_per_s": frames / (time.perf_counter() - started),
        "bytes_per_crop": size / num_crops,
    }
