"""What a corpus is made of: the settings, the videos and tracks of each camera, and whether they are still the same."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.crops import encoder_versions
from data_tools.tracks import read_tracks, without_tracks
from data_tools.truth import Truth, find_truth, truth_file
from data_tools.video import VideoInfo, find_videos, probe
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
    crops_per_shard: int = 20_000

    def __post_init__(self) -> None:
        is_number = isinstance(self.interval_s, int | float) and 0 < self.interval_s < float("inf")
        _require(self.interval_s == "auto" or is_number, "interval-s", self.interval_s, "seconds above 0, or auto")
        _require(0 <= self.min_distance < float("inf"), "min-distance", self.min_distance, "pixels, 0 or more")
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
    """The inputs of a corpus, found and probed; `tracks` holds all cameras, `videos` is in camera order."""

    videos: dict[str, VideoInfo]
    tracks: pa.Table
    truth: Truth | None


def find_sources(
    videos: str | Path,
    tracks: str | Path,
    *,
    format: str = "auto",
    frame_base: int | None = None,
    truth: str = "auto",
) -> Sources:
    """Probes every video, reads all tracks, and pairs them by camera name (the stem of the files).

    A camera whose file of tracks is empty saw nobody; it is left out, and that is logged.

    Raises:
        UserError: something missing or damaged, or cameras that have only one of the two.
    """
    found_videos = find_videos(videos)
    nobody = without_tracks(tracks, found_videos)
    infos = {camera: probe(path) for camera, path in found_videos.items() if camera not in nobody}
    table = read_tracks(
        tracks,
        format=format,
        fps={camera: info.fps for camera, info in infos.items()},
        frame_base=frame_base,
        image_size={camera: (info.width, info.height) for camera, info in infos.items()},
    )
    table = table.filter(pc.greater_equal(table["track"], 0))
    _check_cameras(infos, set(table["camera"].unique().to_pylist()), videos, tracks)
    if nobody:
        log(f"left out {len(nobody)} of {len(found_videos)} cameras, whose tracks are empty: {_some(nobody)}")
    found = find_truth(truth, Path(tracks))
    return Sources(videos=infos, tracks=table, truth=found)


def _check_cameras(videos: dict[str, VideoInfo], tracked: set[str], where: str | Path, tracks: str | Path) -> None:
    without_tracks, without_video = sorted(set(videos) - tracked), sorted(tracked - set(videos))
    if without_tracks or without_video:
        raise UserError(
            f"videos in {where} and tracks in {tracks} do not match: video without tracks: {_some(without_tracks)}; tracks"
            f" without video: {_some(without_video)}. Expected <camera>.mp4 and <camera>.txt of the same names; rename or"
            " remove what has no partner"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) if names else "none"


def describe_request(sources: Sources, settings: ShardSettings) -> dict[str, Any]:
    """Settings, encoder and the identity of every input, without any path: equal requests give equal datasets."""
    total = hashlib.sha256()
    hash_table(total, sources.tracks)
    request: dict[str, Any] = {
        "settings": asdict(settings),
        "encoder": encoder_versions(),
        "videos": {camera: _identity(Path(info.path)) for camera, info in sources.videos.items()},
        "tracks": {"rows": sources.tracks.num_rows, "sha256": total.hexdigest()},
    }
    if sources.truth:
        files = [sources.truth.folder / "truth.json", *(truth_file(sources.truth, name) for name in sources.videos)]
        request["truth"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return request


def _identity(path: Path) -> dict[str, Any]:
    """Name, size, and a checksum of both ends: enough to tell recordings apart without reading them through."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(_END_BYTES))
        file.seek(max(0, size - _END_BYTES))
        ends.update(file.read(_END_BYTES))
    return {"file": path.name, "bytes": size, "sha256_of_ends": ends.hexdigest()}
