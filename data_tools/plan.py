"""The plan of a corpus: every crop of every tracklet, cut into units, before any frame is decoded.

A unit is a camera's tracklets of a time window, enough for one shard. All names are functions of the inputs, never of who does the
work or when. A plan grows by recordings, and what stood in it before stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.crop_tables import CropTables
from data_tools.forgotten import Forget, without_forgotten
from data_tools.recordings import Recording
from data_tools.selection import REASONS, Selection, largest_overlap, select_crops
from data_tools.shard_writer import tracklet_key
from data_tools.sources import ShardSettings, Sources, noting
from data_tools.sstt import TRACKLETS_SCHEMA, estimate_interval, sample_tracklets
from data_tools.tracks import rows_by_camera
from data_tools.truth import Visit, read_truth
from data_tools.unit_cut import CROPS_SCHEMA, PURPOSES, Unit, cut_units, with_routes
from data_tools.video import VideoInfo, index_frames
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

FORMAT, VERSION = "taudl-plan", 3
_RANKS = 1 << 20
"""Room for the tracks of one instant in a label before labels are counted through."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`content` is plan.json; `crops` holds the table of each unit that is new."""

    content: dict[str, Any]
    crops: CropTables


def make_plan(
    sources: Sources,
    recordings: Sequence[Recording],
    settings: ShardSettings,
    request: dict[str, Any],
    *,
    identities: dict[str, dict[str, Any]],
    before: dict[str, Any] | None = None,
    failed: dict[str, str] | None = None,
    drops: Sequence[Forget] = (),
) -> Plan:
    """Samples the tracklets (SSTT) of recordings and plans their crops and units; recordings that fail are named in the plan.

    Args:
        recordings: what is new, of all in `sources`.
        request: settings and encoder, as `describe_settings` gives them.
        identities: `describe_recording` by the recording's name.
        before: the content of the plan that is extended. Its P stays.
        failed: videos that cannot be used, by name, and why.

    Raises:
        UserError: a camera without any tracklet.
    """
    training = {one.name: _training(sources, one) for one in recordings}
    if before:
        interval_s = before["interval_s"]
    elif settings.interval_s == "auto":
        interval_s = estimate_interval(_joined(training))
    else:
        interval_s = float(settings.interval_s)
    sampled = sample_tracklets(_joined(training), interval_s=interval_s, min_distance=settings.min_distance)
    failed = dict(failed or {})
    planner = _Planner(
        sources=sources, settings=settings, training=training, sampled=rows_by_camera(sampled), interval_s=interval_s, drops=drops
    )  # fmt: skip
    made: list[Recording] = []
    units: list[dict[str, Any]] = []
    dropped: dict[str, Counter[str]] = {}
    crops, taken = CropTables(), _taken(before)
    for camera, group in groupby(progress(recordings, "plan", unit="video"), lambda one: one.camera):
        parts: dict[str, _Part] = {}
        own = list(group)
        for one in own:
            with noting(failed, one.name):
                parts[one.name] = planner.plan(one)
        own = [one for one in own if one.name in parts]
        if not own:
            continue
        _check_not_empty(camera, list(parts.values()), is_known=_is_known(camera, before))
        tables = [part.crops for part in parts.values()]
        for unit in cut_units(camera, tables, own, settings=settings, taken=taken):
            units.append(_described(unit, request, identities))
            crops.add(unit.name, unit.crops)
        made += own
        dropped[camera] = sum((Counter(part.dropped) for part in parts.values()), Counter())
    content = {
        "format": FORMAT,
        "version": VERSION,
        "request": request,
        "interval_s": interval_s,
        "cameras": _cameras(dropped, before),
        "recordings": {
            **(before["recordings"] if before else {}),
            **{one.name: _describe(one, identities) for one in made},
        },
        "units": sorted(
            [*(before["units"] if before else []), *units],
            key=_order,
        ),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Plan(content={**content, "failed": failed, "digest": digest}, crops=crops)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a recording gives: its crops with the way to them, and what fell away."""

    crops: pa.Table
    dropped: dict[str, int]
    num_sampled: int
    num_tracks: int


@dataclass(frozen=True, kw_only=True)
class _Planner:
    sources: Sources
    settings: ShardSettings
    training: dict[str, pa.Table]
    sampled: dict[str, pa.Table]
    interval_s: float
    drops: Sequence[Forget]

    def plan(self, recording: Recording) -> _Part:
        """The crops of one recording, without any knowledge of the others."""
        _check_frames(self.sources.tracks[recording.name], recording.video)
        tracks = self.training[recording.name]
        labels = self.sampled.get(recording.name, TRACKLETS_SCHEMA.empty_table())
        crops, dropped = self._training_crops(recording, tracks, labels)
        if self.sources.truth:
            truth = read_truth(self.sources.truth, recording.video, recording.camera)
            test, dropped_test = self._test_crops(recording, *truth)
            crops, dropped = pa.concat_tables([crops, test]), Counter(dropped) + Counter(dropped_test)
        return _Part(
            crops=with_routes(without_forgotten(crops, recording.camera, self.drops), index_frames(recording.source)),
            dropped={name: dropped[name] for name in REASONS},
            num_sampled=labels.num_rows,
            num_tracks=len(tracks["track"].unique()),
        )

    def _training_crops(
        self, recording: Recording, tracks: pa.Table, labels: pa.Table
    ) -> tuple[pa.Table, dict[str, int]]:
        overlap = None
        if self.settings.max_overlap < 1:
            overlap = largest_overlap(tracks["frame"].to_numpy(), _boxes(tracks))
        by_track = labels.sort_by("track")
        is_sampled = pc.is_in(tracks["track"], by_track["track"].combine_chunks())
        tracks = tracks.filter(is_sampled)
        label = by_track["label"].to_numpy()[np.searchsorted(by_track["track"].to_numpy(), tracks["track"].to_numpy())]
        chosen = select_crops(
            label,
            tracks["frame"].to_numpy(),
            _boxes(tracks),
            video=recording.video,
            settings=self.settings,
            overlap=None if overlap is None else overlap[is_sampled.to_numpy(zero_copy_only=False)],
        )
        kept, number = np.unique(label[chosen.rows], return_inverse=True)
        track = labels.sort_by("label")["track"].to_numpy()[kept]
        prefix = "train" if recording.start_s is None else f"train/{recording.stamp}"
        keys = [tracklet_key(recording.camera, f"{prefix}/{value}") for value in track.tolist()]
        crops = _crops(
            tracks, chosen, number, keys=keys, splits=["train"] * len(keys), people=[None] * len(keys),
            labels=_ordered_labels(labels, self.interval_s)[kept],
        )  # fmt: skip
        return crops, chosen.dropped

    def _test_crops(
        self, recording: Recording, boxes: pa.Table, visits: list[Visit]
    ) -> tuple[pa.Table, dict[str, int]]:
        visit = np.zeros(boxes.num_rows, np.int64)
        for position, one in enumerate(visits):
            visit[one.rows] = position
        everything = replace(self.settings, min_length_s=0.0, edge_margin=None, max_overlap=1.0)
        chosen = select_crops(
            visit, boxes["frame"].to_numpy(), _boxes(boxes), video=recording.video, settings=everything
        )
        kept, number = np.unique(visit[chosen.rows], return_inverse=True)
        keys = [tracklet_key(recording.camera, f"test/{position}") for position in kept.tolist()]
        splits = ["+".join(visits[position].splits) for position in kept.tolist()]
        people = [visits[position].person_id for position in kept.tolist()]
        table = _crops(boxes, chosen, number, keys=keys, splits=splits, people=people, labels=np.full(len(keys), -1))
        at = table.schema.get_field_index("track")
        return table.set_column(at, "track", pa.array(kept[number])), chosen.dropped


def _training(sources: Sources, recording: Recording) -> pa.Table:
    """The tracks SSTT may see, with the recording's name for a camera: two recordings have no track in common."""
    tracks = sources.tracks[recording.name]
    if sources.truth:
        tracks = tracks.filter(pc.less(tracks["time_s"], sources.truth.test_start_s))
    return tracks.set_column(0, "camera", pa.array([recording.name] * tracks.num_rows, pa.string()))


def _joined(tables: dict[str, pa.Table]) -> pa.Table:
    return pa.concat_tables(tables.values())


def _ordered_labels(labels: pa.Table, interval_s: float) -> np.ndarray:
    """For each label of a recording one that grows with (instant, track) over all recordings of its camera.

    Counting through, to 0..M_t-1, is the last step's: then recordings can be added, and tracklets can fail or be dropped.
    """
    instant = np.round(labels.sort_by("label")["instant_s"].to_numpy() / interval_s).astype(np.int64)
    rank = np.arange(len(instant)) - np.searchsorted(instant, instant)
    assert rank.max(initial=0) < _RANKS
    return instant * _RANKS + rank


def _check_frames(tracks: pa.Table, video: VideoInfo) -> None:
    beyond = pc.sum(pc.greater_equal(tracks["frame"], video.num_frames)).as_py()
    if beyond:
        raise UserError(
            f"{video.path}: has {video.num_frames} frames, but {beyond} of its {tracks.num_rows} track rows lie beyond them,"
            f" up to frame {pc.max(tracks['frame']).as_py()} (counted from 0): the tracks belong to another or a longer"
            " video, or count frames from another base; give the matching files"
        )


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
    labels: np.ndarray,
) -> pa.Table:
    """CROPS_SCHEMA of the chosen detections; `number` (n,) leads from each to its tracklet's key, splits, person and label."""
    source = tracks.take(pa.array(chosen.rows))
    of_tracklet = {
        "key": pa.array(keys, pa.string()),
        "splits": pa.array(splits, pa.string()),
        "person_id": pa.array(people, pa.int64()),
        "label": pa.array(labels, pa.int64()),
    }
    columns = {name: values.take(pa.array(number)) for name, values in of_tracklet.items()}
    columns |= {name: source[name] for name in ("track", "frame", "time_s")}
    columns |= {name: pa.array(chosen.boxes[:, axis]) for axis, name in enumerate(("x1", "y1", "x2", "y2"))}
    columns |= {"recording": pa.array(np.zeros(len(number), np.int32))}
    return pa.table({name: columns[name] for name in CROPS_SCHEMA.names}, schema=CROPS_SCHEMA)


def _taken(before: dict[str, Any] | None) -> dict[tuple[str, str, float], int]:
    """The first free number by (camera, purpose, window)."""
    taken: dict[tuple[str, str, float], int] = {}
    for unit in before["units"] if before else []:
        place = (unit["camera"], unit["purpose"], unit["window"])
        taken[place] = max(taken.get(place, 0), unit["number"] + 1)
    return taken


def _is_known(camera: str, before: dict[str, Any] | None) -> bool:
    return before is not None and any(one["name"] == camera for one in before["cameras"])


def _check_not_empty(camera: str, parts: list[_Part], *, is_known: bool) -> None:
    if is_known or any("train" in part.crops["splits"].unique().to_pylist() for part in parts):
        return
    dropped = {
        name: count for name, count in sum((Counter(part.dropped) for part in parts), Counter()).items() if count
    }
    raise UserError(
        f"camera {camera!r}: no training tracklet is left of {sum(part.num_tracks for part in parts)} tracks"
        f" ({sum(part.num_sampled for part in parts)} sampled; dropped: {dropped}); give a smaller --interval-s or --min-height,"
        " or leave this camera out"
    )


def _cameras(new: dict[str, Counter[str]], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Cameras and what fell away in them, with what fell away before."""
    dropped = {one["name"]: Counter(one["dropped"]) for one in before["cameras"]} if before else {}
    for name, counts in new.items():
        dropped.setdefault(name, Counter()).update(counts)
    return [
        {"name": name, "dropped": {r: dropped[name][r] for r in REASONS}} for name in sorted(dropped, key=camera_order)
    ]


def camera_order(camera: str) -> str:
    """Cameras stand in the order of their files."""
    return f"{camera}."


def _order(unit: dict[str, Any]) -> tuple[str, int, float, int]:
    return (camera_order(unit["camera"]), PURPOSES.index(unit["purpose"]), unit["window"], unit["number"])


def _describe(recording: Recording, identities: dict[str, dict[str, Any]]) -> dict[str, Any]:
    video = asdict(recording.video)
    facts = {name: video[name] for name in ("fps", "num_frames", "width", "height", "duration_s")}
    return {"camera": recording.camera, **facts, **identities[recording.name]}


def _described(unit: Unit, request: dict[str, Any], identities: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What plan.json says of a unit; its digest is a function of all that decides its bytes."""
    decisive = [request, [identities[one.name] for one in unit.recordings]]
    return unit.describe(hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()))


def log_plan(plan: dict[str, Any]) -> None:
    """What was planned and what fell away, on stderr."""
    tracklets, crops = (sum(unit[name] for unit in plan["units"]) for name in ("tracklets", "crops"))
    log(f"plan: {tracklets} tracklets, {crops} crops of {len(plan['cameras'])} cameras in {len(plan['units'])} units")
    for reason, what in REASONS.items():
        counts = {camera["name"]: camera["dropped"][reason] for camera in plan["cameras"] if camera["dropped"][reason]}
        if counts:
            log(f"plan: dropped {sum(counts.values())} {what} ({', '.join(f'{k}: {v}' for k, v in counts.items())})")
    for name, problem in plan["failed"].items():
        log(f"plan: left out {name}: {problem}")
