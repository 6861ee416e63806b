"""What a corpus is made of: the settings, the videos and tracks of each camera, and their identity.

A file that cannot be used is named with its reason and does not stand in the way of the others; how many may be missing is
decided by who asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_tools.crops import encoder_versions
from data_tools.recording_tracks import read_recording_tracks, some
from data_tools.recordings import Interval, Recording, VideoFile, find_overlaps, find_video_files
from data_tools.source_files import Source, read_range, size_of
from data_tools.tracks import without_tracks
from data_tools.truth import Truth, find_truth, truth_file
from data_tools.video import probe
from taudl_dist.dataset.schema import hash_table
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

_END_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How tracks become tracklets and crops; with the inputs, it decides every byte of the dataset."""

    interval_s: float | str = "auto"
    min_distance: float = 0.0
    max_frames: int = 16
    min_frames: int = 1
    min_height: int = 16
    max_height: int = 256
    min_length_s: float = 0.0
    edge_margin: int | None = None
    max_overlap: float = 1.0
    crops_per_shard: int = 20_000
    window_s: float = 3600.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.interval_s, int | float) and 0 < self.interval_s < float("inf")
        _require(self.interval_s == "auto" or is_number, "interval-s", self.interval_s, "seconds above 0, or auto")
        _require(0 <= self.min_distance < float("inf"), "min-distance", self.min_distance, "pixels, 0 or more")
        _require(0 <= self.min_length_s < float("inf"), "min-length-s", self.min_length_s, "seconds, 0 or more")
        _require(0 < self.max_overlap <= 1, "max-overlap", self.max_overlap, "a share above 0, up to 1 (any overlap)")
        _require(1 <= self.window_s < float("inf"), "window-s", self.window_s, "seconds, 1 or more")
        _require(
            self.edge_margin is None or self.edge_margin >= 0, "edge-margin", self.edge_margin, "pixels, 0 or more"
        )
        for name in ("max_frames", "min_frames", "min_height", "crops_per_shard"):
            _require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "at least 1")
        _require(
            self.min_frames <= self.max_frames, "min-frames", self.min_frames, f"at most --max-frames {self.max_frames}"
        )
        _require(
            self.max_height == 0 or self.max_height >= 16, "max-height", self.max_height, "0 (as it is) or 16 or more"
        )


def _require(condition: bool, flag: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"--{flag} {value}: expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The inputs of a corpus, found and probed. `recordings` are in order of camera and start; `tracks` is by recording's name.

    `failed`: name of a video file, or of tracks without one, and why it cannot be used.
    """

    recordings: list[Recording]
    tracks: dict[str, pa.Table]
    truth: Truth | None
    failed: dict[str, str]


def find_sources(
    videos: str | Path,
    tracks: str | Path,
    *,
    format: str = "auto",
    frame_base: int | None = None,
    truth: str = "auto",
    starts: str = "",
    start_pattern: str = "",
    known: Mapping[str, dict[str, Any]] | None = None,
) -> Sources:
    """Probes every video, reads all tracks, and pairs them by name.

    A camera whose file of tracks is empty saw nobody; it is left out, and that is logged.

    Args:
        known: the recordings of the plan that is gone on with, by name; nothing new may overlap them.

    Raises:
        UserError: no videos, no tracks, tracks that cannot be read.
    """
    files = find_video_files(videos, starts=starts, start_pattern=start_pattern)
    nobody = without_tracks(tracks, {file.camera for file in files if file.is_alone})
    files = [file for file in files if not (file.is_alone and file.camera in nobody)]
    failed: dict[str, str] = {}
    probed = list(_probe_all(files, failed))
    if not probed and files:
        raise UserError("\n".join(failed.values()))
    known = known or {}
    failed |= find_overlaps(
        [one for one in probed if one.start_s is not None and one.name not in known], _settled(known)
    )
    recordings = sorted((one for one in probed if one.name not in failed), key=lambda one: (one.camera, one.begin_s))
    tables, problems = read_recording_tracks(
        recordings, tracks, videos=videos, files=files, format=format, frame_base=frame_base
    )
    failed |= problems
    if nobody:
        log(f"left out {len(nobody)} of {len(nobody) + len(files)} cameras, whose tracks are empty: {some(nobody)}")
    found = find_truth(truth, Path(tracks))
    if found and any(one.start_s is not None for one in recordings):
        raise UserError(
            f"{found.folder}: ground truth is read for cameras of one video file each, whose times count from 0; give --truth none"
        )
    usable = [one for one in recordings if one.name not in failed]
    return Sources(recordings=usable, tracks=tables, truth=found, failed=failed)


def _settled(known: Mapping[str, dict[str, Any]]) -> dict[str, list[Interval]]:
    """When the recordings of a plan begin and end, by camera."""
    settled: dict[str, list[Interval]] = {}
    for one in known.values():
        if one["start_s"] is not None:
            interval = (one["start_s"], one["start_s"] + one["duration_s"], one["video"]["file"])
            settled.setdefault(one["camera"], []).append(interval)
    return settled


@contextmanager
def noting(failed: dict[str, str], name: str) -> Iterator[None]:
    """A problem of one file is noted under its name, and the work goes on with the others."""
    try:
        yield
    except (UserError, OSError) as error:
        failed[name] = str(error)


def _probe_all(files: list[VideoFile], failed: dict[str, str]) -> Iterator[Recording]:
    for file in files:
        with noting(failed, file.name):
            yield _probe(file)


def _probe(file: VideoFile) -> Recording:
    info = probe(file.source)
    start_s = file.start_s if file.start_s is not None or file.is_alone else info.created_s
    if start_s is None and not file.is_alone:
        raise UserError(
            f"{file.source}: does not tell when it begins (no creation_time in it), and camera {file.camera!r} has a folder of files;"
            " give --starts TABLE.csv or --start-pattern"
        )
    return Recording(camera=file.camera, name=file.name, source=file.source, video=info, start_s=start_s)


def describe_settings(settings: ShardSettings) -> dict[str, Any]:
    """What holds for every part of a corpus: settings and encoder."""
    return {"settings": asdict(settings), "encoder": encoder_versions()}


def describe_recording(recording: Recording, sources: Sources) -> dict[str, Any]:
    """The identity of a recording and of its tracks, without any path above the folder: equal ones give equal shards."""
    tracks, total = sources.tracks[recording.name], hashlib.sha256()
    hash_table(total, tracks)
    described = {
        "start_s": recording.start_s,
        "video": _identity(recording.source, recording.file),
        "tracks": {"rows": tracks.num_rows, "sha256": total.hexdigest()},
    }
    if sources.truth:
        file = truth_file(sources.truth, recording.camera)
        general = sources.truth.folder / "truth.json"
        described["truth"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (general, file)}
    return described


def _identity(source: Source, name: str) -> dict[str, Any]:
    """Name, size, and a checksum of both ends: enough to tell recordings apart without reading them through."""
    size = size_of(source)
    ends = hashlib.sha256(read_range(source, 0, _END_BYTES))
    ends.update(read_range(source, max(0, size - _END_BYTES), _END_BYTES))
    return {"file": name, "bytes": size, "sha256_of_ends": ends.hexdigest()}
