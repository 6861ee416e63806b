"""The immutable plan of a corpus: every crop of every tracklet, cut into units, before any frame is decoded.

A unit is a camera's tracklets of a time window, enough for one shard. All names are functions of the plan, never of who
does the work or when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.selection import Selection, select_crops
from data_tools.shard_writer import safe_name, tracklet_key
from data_tools.sources import ShardSettings, Sources
from data_tools.sstt import estimate_interval, sample_tracklets
from data_tools.truth import Visit, read_truth
from data_tools.video import VideoInfo, key_frames
from taudl_dist.dataset.schema import hash_table
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

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
    ]
)
"""A row per crop of a unit, in order of (key, frame). `splits` joins split names with +. Boxes are clipped, whole pixels."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`content` is plan.json; `crops` holds each unit's table."""

    content: dict[str, Any]
    crops: dict[str, pa.Table]


def make_plan(sources: Sources, settings: ShardSettings, request: dict[str, Any]) -> Plan:
    """Samples the tracklets (SSTT) and plans their crops and units.

    Raises:
        UserError: tracks of frames a video does not have, a damaged video, a camera without any tracklet.
    """
    training = sources.tracks
    if sources.truth:
        training = training.filter(pc.less(training["time_s"], sources.truth.test_start_s))
    interval_s = estimate_interval(training) if settings.interval_s == "auto" else float(settings.interval_s)
    sampled = sample_tracklets(training, interval_s=interval_s, min_distance=settings.min_distance)
    cameras, units, crops = [], [], {}
    for camera, video in progress(sources.videos.items(), "plan", unit="camera"):
        _check_frames(sources.tracks.filter(pc.equal(sources.tracks["camera"], camera)), video)
        planned, dropped = _plan_camera(camera, sources, settings, training, sampled)
        cameras.append(
            {"name": camera, "video": request["videos"][camera]["file"], "fps": video.fps, "num_frames": video.num_frames,
             "width": video.width, "height": video.height, "dropped": dropped}
        )  # fmt: skip
        cut = cut_units(camera, planned, settings.crops_per_shard)
        units += _describe_units(camera, cut, video)
        crops.update(cut)
    content = {"format": "taudl-plan", "version": 1, "interval_s": interval_s, "cameras": cameras, "units": units}
    content = {**content, "request": request, "digest": _digest(content, request, crops)}
    return Plan(content=content, crops=crops)


def _check_frames(tracks: pa.Table, video: VideoInfo) -> None:
    beyond = pc.sum(pc.greater_equal(tracks["frame"], video.num_frames)).as_py()
    if beyond:
        raise UserError(
            f"{video.path}: has {video.num_frames} frames, but {beyond} of its {tracks.num_rows} track rows lie beyond them,"
            f" up to frame {pc.max(tracks['frame']).as_py()} (counted from 0): the tracks belong to another or a longer"
            " video, or count frames from another base; give the matching files"
        )


def _plan_camera(
    camera: str, sources: Sources, settings: ShardSettings, training: pa.Table, sampled: pa.Table
) -> tuple[pa.Table, dict[str, int]]:
    """The crops of a camera (CROPS_SCHEMA) and how many boxes and tracklets fell away."""
    video = sources.videos[camera]
    tracks = training.filter(pc.equal(training["camera"], camera))
    labels = sampled.filter(pc.equal(sampled["camera"], camera))
    train, dropped = _training_crops(camera, tracks, labels, video, settings)
    if not train.num_rows:
        raise UserError(
            f"camera {camera!r}: no training tracklet is left of {len(tracks['track'].unique())} tracks ({labels.num_rows}"
            f" sampled; dropped: {dropped}); give a smaller --interval-s or --min-height, or leave this camera out"
        )
    if sources.truth is None:
        return train, dropped
    test, dropped_test = _test_crops(camera, *read_truth(sources.truth, video, camera), video, settings)
    return pa.concat_tables([train, test]), {name: dropped[name] + dropped_test[name] for name in dropped}


def _training_crops(
    camera: str, tracks: pa.Table, labels: pa.Table, video: VideoInfo, settings: ShardSettings
) -> tuple[pa.Table, dict[str, int]]:
    by_track = labels.sort_by("track")
    sampled = by_track["track"].to_numpy()
    tracks = tracks.filter(pc.is_in(tracks["track"], by_track["track"].combine_chunks()))
    label = by_track["label"].to_numpy()[np.searchsorted(sampled, tracks["track"].to_numpy())]
    chosen = select_crops(label, tracks["frame"].to_numpy(), _boxes(tracks), video=video, settings=settings)
    kept, number = np.unique(label[chosen.rows], return_inverse=True)  # labels stay 0..M_t-1 when a tracklet fell away
    of_label = dict(zip(label.tolist(), tracks["track"].to_pylist()))
    keys = [tracklet_key(camera, f"train/{of_label[value]}") for value in kept.tolist()]
    crops = _crops(tracks, chosen, number, keys=keys, splits=["train"] * len(keys), people=[None] * len(keys))
    return crops, chosen.dropped


def _test_crops(
    camera: str, boxes: pa.Table, visits: list[Visit], video: VideoInfo, settings: ShardSettings
) -> tuple[pa.Table, dict[str, int]]:
    visit = np.zeros(boxes.num_rows, np.int64)
    for position, one in enumerate(visits):
        visit[one.rows] = position
    chosen = select_crops(visit, boxes["frame"].to_numpy(), _boxes(boxes), video=video, settings=settings)
    kept, number = np.unique(visit[chosen.rows], return_inverse=True)
    keys = [tracklet_key(camera, f"test/{position}") for position in kept.tolist()]
    splits = ["+".join(visits[position].splits) for position in kept.tolist()]
    people = [visits[position].person_id for position in kept.tolist()]
    table = _crops(boxes, chosen, number, keys=keys, splits=splits, people=people)
    unlabelled = pa.array(np.full(table.num_rows, -1))
    for name, values in (("label", unlabelled), ("track", pa.array(kept[number]))):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table, chosen.dropped


def _boxes(tracks: pa.Table) -> np.ndarray:
    return np.stack([tracks[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float64)


def _crops(
    tracks: pa.Table,
    chosen: Selection,
    number: np.ndarray,
    *,
    keys: list[str],
    splits: list[str],
    people: Sequence[int | None],
) -> pa.Table:
    """CROPS_SCHEMA of the chosen detections; `number` (n,) leads from each to its tracklet's key, splits and person."""
    source = tracks.take(pa.array(chosen.rows))
    of_tracklet = {
        "key": pa.array(keys, pa.string()),
        "splits": pa.array(splits, pa.string()),
        "person_id": pa.array(people, pa.int64()),
    }
    columns = {name: values.take(pa.array(number)) for name, values in of_tracklet.items()}
    columns |= {"label": pa.array(number, pa.int64())}
    columns |= {name: source[name] for name in ("track", "frame", "time_s")}
    columns |= {name: pa.array(chosen.boxes[:, axis]) for axis, name in enumerate(("x1", "y1", "x2", "y2"))}
    return pa.table({name: columns[name] for name in CROPS_SCHEMA.names}, schema=CROPS_SCHEMA)


def cut_units(camera: str, crops: pa.Table, crops_per_shard: int) -> dict[str, pa.Table]:
    """Tracklets in order of their first crop's frame, in runs of about `crops_per_shard` crops; training and test apart."""
    units = {}
    is_training = pc.equal(crops["splits"], "train")
    for purpose, part in (("train", crops.filter(is_training)), ("test", crops.filter(pc.invert(is_training)))):
        tracklets = part.group_by("key").aggregate([("frame", "min"), ("frame", "count")])
        tracklets = tracklets.sort_by([("frame_min", "ascending"), ("key", "ascending")])
        before = np.cumsum(tracklets["frame_count"].to_numpy()) - tracklets["frame_count"].to_numpy()
        number = before // crops_per_shard
        for unit in np.unique(number).tolist():
            keys = tracklets["key"].filter(pa.array(number == unit))
            rows = part.filter(pc.is_in(part["key"], keys.combine_chunks()))
            name = f"{safe_name(camera)}-{purpose}-{unit:05d}"
            units[name] = rows.sort_by([("key", "ascending"), ("frame", "ascending")]).combine_chunks()
    return units


def _describe_units(camera: str, units: dict[str, pa.Table], video: VideoInfo) -> list[dict[str, Any]]:
    """What plan.json says of each unit; `start` is the key frame (index, time stamp) its decoding starts at."""
    indices, stamps = key_frames(video.path)
    described = []
    for name, crops in units.items():
        first, last = pc.min(crops["frame"]).as_py(), pc.max(crops["frame"]).as_py()
        at = int(np.searchsorted(indices, first, side="right")) - 1
        start = [int(indices[at]), int(stamps[at])] if at > 0 else None
        described.append(
            {"name": name, "camera": camera, "tracklets": len(crops["key"].unique()), "crops": crops.num_rows,
             "first_frame": first, "last_frame": last, "start": start}
        )  # fmt: skip
    return described


def _digest(content: dict[str, Any], request: dict[str, Any], crops: dict[str, pa.Table]) -> str:
    total = hashlib.sha256(json.dumps([content, request], sort_keys=True).encode())
    for name, table in crops.items():
        total.update(name.encode())
        hash_table(total, table)
    return total.hexdigest()


def log_plan(plan: dict[str, Any]) -> None:
    """What was planned and what fell away, on stderr."""
    tracklets, crops = (sum(unit[name] for unit in plan["units"]) for name in ("tracklets", "crops"))
    log(f"plan: {tracklets} tracklets, {crops} crops of {len(plan['cameras'])} cameras in {len(plan['units'])} units")
    for reason in ("boxes_outside", "boxes_small", "tracklets"):
        counts = {camera["name"]: camera["dropped"][reason] for camera in plan["cameras"] if camera["dropped"][reason]}
        if counts:
            what = {"boxes_outside": "boxes outside the frame", "boxes_small": "boxes below --min-height"}.get(
                reason, "tracklets without enough usable boxes"
            )
            log(f"plan: dropped {sum(counts.values())} {what} ({', '.join(f'{k}: {v}' for k, v in counts.items())})")
