"""What a dataset holds, per camera and split: tracklets, images, bytes, the time it covers and the longest gap in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.tracks import rows_by_camera
from taudl_dist.dataset import Dataset
from taudl_dist.dataset.schema import SPLITS


def dataset_info(dataset: Dataset, manifest: pa.Table) -> dict[str, Any]:
    """The summary, ready for JSON; times in seconds since the beginning of a camera's video. `manifest`: of all splits."""
    rows, nothing = rows_by_camera(manifest), manifest.slice(0, 0)
    return {
        "digest": dataset.digest,
        "shards": len(dataset.shards),
        "bytes": sum(shard["bytes"] for shard in dataset.info["shards"]),
        "splits": dataset.info["splits"],
        "people": pc.count_distinct(manifest["person_id"]).as_py(),
        "cameras": [_camera(rows.get(name, nothing), name) for name in dataset.cameras],
        "settings": dataset.info.get("settings", {}),
        "encoder": dataset.info.get("encoder", {}),
    }


def _camera(rows: pa.Table, name: str) -> dict[str, Any]:
    counts = {split: pc.sum(pc.equal(rows["split"], split), min_count=0).as_py() for split in SPLITS}
    training = rows.filter(pc.equal(rows["split"], "train"))
    start, end = rows["start_s"].to_numpy(), rows["end_s"].to_numpy()
    gap_s, gap_from_s = longest_gap(start, end)
    return {
        "name": name,
        "tracklets": counts,
        "images": pc.sum(training["num_frames"], min_count=0).as_py(),
        "bytes": pc.sum(training["length"], min_count=0).as_py(),
        "images_per_tracklet": round(pc.mean(training["num_frames"]).as_py() or 0.0, 1),
        "first_s": float(start.min(initial=np.inf)) if len(start) else None,
        "last_s": float(end.max(initial=-np.inf)) if len(end) else None,
        "longest_gap_s": gap_s,
        "longest_gap_from_s": gap_from_s,
    }


def longest_gap(start: np.ndarray, end: np.ndarray) -> tuple[float, float | None]:
    """Length and beginning, in seconds, of the longest time between intervals start..end (n,) that none of them covers."""
    order = np.argsort(start, kind="stable")
    covered_until = np.maximum.accumulate(end[order])[:-1]
    gaps = start[order][1:] - covered_until
    if not len(gaps) or gaps.max() <= 0:
        return 0.0, None
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(covered_until[widest])


def info_table(info: dict[str, Any]) -> str:
    """The summary as text."""
    width = max([6, *(len(camera["name"]) for camera in info["cameras"])])
    lines = [f"{'camera':{width}}  tracklets   query gallery    images      MB        time  longest gap"]
    for camera in info["cameras"]:
        counts = camera["tracklets"]
        covered = "-" if camera["first_s"] is None else f"{camera['first_s']:.0f}-{camera['last_s']:.0f} s"
        lines.append(
            f"{camera['name']:{width}}  {counts['train']:9} {counts['query']:7} {counts['gallery']:7}"
            f" {camera['images']:9} {camera['bytes'] / 1e6:7.1f} {covered:>11} {camera['longest_gap_s']:10.1f} s"
        )
    lines.append(f"{info['shards']} shards, {info['bytes'] / 1e6:.1f} MB, {info['people']} known people")
    lines.append(f"digest {info['digest']}")
    return "\n".join(lines)
