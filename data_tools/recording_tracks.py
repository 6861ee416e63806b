"""The tracks of each video file, from a file of tracks per camera or per video.

Per video, `<name>.txt` counts frames from that video's first. Per camera, `<camera>.txt` counts them through all its files in order
of start; a track that goes on from one file to the next becomes two. That costs SSTT nothing: both halves together are in view for
less than P, so at most one of them is alive at an instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.recordings import Recording, VideoFile
from data_tools.source_files import shown
from data_tools.tracks import TRACK_SUFFIXES, TRACKS_SCHEMA, is_blank, is_label_folder, read_tracks, rows_by_camera
from taudl_dist.errors import UserError

Tables = dict[str, pa.Table]
"""Tracks by the recording's name: frames count in its own file."""


def read_recording_tracks(
    recordings: Sequence[Recording],
    tracks: str | Path,
    *,
    videos: str | Path,
    files: Sequence[VideoFile],
    format: str,
    frame_base: int | None,
) -> tuple[Tables, dict[str, str]]:
    """Tables of TRACKS_SCHEMA without the rows of no track, and by name the recordings or tracks without a partner, and why.

    Args:
        files: all video files that were found, `recordings` those of them that could be probed.
    """
    if all(file.is_alone for file in files):
        tables, problems = _by_camera(
            recordings, tracks, videos=videos, files=files, format=format, frame_base=frame_base
        )
    else:
        tables, problems = {}, {}
        sources = _Sources(Path(tracks), format=format, frame_base=frame_base)
        for camera, group in groupby(
            sorted(recordings, key=lambda one: (one.camera, one.begin_s)), lambda one: one.camera
        ):
            broken = [file.name for file in files if file.camera == camera]
            own = list(group)
            found, problem = sources.tables(camera, own, is_whole=len(broken) == len(own))
            tables |= found
            problems |= problem
        problems |= sources.without_video(files)
    return {name: table.filter(pc.greater_equal(table["track"], 0)) for name, table in tables.items()}, problems


def _by_camera(
    recordings: Sequence[Recording], tracks: str | Path, *, videos: str | Path, files: Sequence[VideoFile], format: str,
    frame_base: int | None,
) -> tuple[Tables, dict[str, str]]:  # fmt: skip
    """One video per camera: whatever `read_tracks` takes, paired by the camera's name."""
    table = read_tracks(
        tracks,
        format=format,
        fps={one.camera: one.video.fps for one in recordings},
        frame_base=frame_base,
        image_size={one.camera: (one.video.width, one.video.height) for one in recordings},
    )
    tracked = set(table.filter(pc.greater_equal(table["track"], 0))["camera"].unique().to_pylist())
    without_tracks = sorted({one.camera for one in recordings} - tracked)
    without_video = sorted(tracked - {file.camera for file in files})
    problem = (
        f"videos in {shown(videos)} and tracks in {tracks} do not match: video without tracks: {some(without_tracks)}; tracks without"
        f" video: {some(without_video)}. Expected <camera>.mp4 and <camera>.txt of the same names; rename or remove what has no"
        " partner"
    )
    rows = rows_by_camera(table)
    tables = {one.name: rows.get(one.camera, TRACKS_SCHEMA.empty_table()) for one in recordings}
    return tables, dict.fromkeys([*without_tracks, *without_video], problem)


class _Sources:
    """Files of tracks beside cameras of many video files, or one file with a camera column."""

    def __init__(self, path: Path, *, format: str, frame_base: int | None) -> None:
        if path.is_dir() and is_label_folder(path, format):
            raise UserError(
                f"{path}: a folder of ultralytics labels is one camera's; expected a folder or file per video"
            )
        self.path, self.format, self.frame_base = path, format, frame_base
        found = sorted(path.rglob("*")) if path.is_dir() else []
        self.files = {
            file.relative_to(path).with_suffix("").as_posix(): file
            for file in found
            if file.suffix in TRACK_SUFFIXES and file.name[0] != "."
        }
        self.is_announced = False
        self.whole = None if path.is_dir() else read_tracks(path, format=format, frame_base=frame_base, fps=1.0)

    def tables(self, camera: str, own: list[Recording], *, is_whole: bool) -> tuple[Tables, dict[str, str]]:
        """Tracks of a camera's recordings, which are in order of start. `is_whole`: all of its files could be read."""
        if self.whole is None and any(one.name in self.files for one in own):
            return self._per_video(own)
        try:
            if not is_whole:
                raise UserError(
                    f"{self.path}: the tracks of camera {camera!r} count frames through all its files, and not all of them can be"
                    " read; mend them, or give a file of tracks per video"
                )
            return _cut(self._whole_camera(camera, own), own), {}
        except UserError as error:
            return {}, {one.name: str(error) for one in own}

    def without_video(self, files: Sequence[VideoFile]) -> dict[str, str]:
        """Tracks that belong to no video."""
        known = {name for file in files for name in (file.name, file.camera)}
        if self.whole is not None:
            cameras = dict.fromkeys(self.whole["camera"].unique().to_pylist(), self.path)
        else:
            cameras = self.files
        return {
            name: f"{path}: found tracks of {name!r}, but no such camera or video; rename or remove them"
            for name, path in cameras.items()
            if name not in known
        }

    def _per_video(self, own: list[Recording]) -> tuple[Tables, dict[str, str]]:
        tables, problems = {}, {}
        for one in own:
            try:
                if one.name not in self.files:
                    raise UserError(
                        f"{one.video.path}: no tracks; expected {self.path / one.name}.txt, empty if it shows nobody"
                    )
                tables[one.name] = _on_clock(self._read(self.files[one.name], [one]), one)
            except UserError as error:
                problems[one.name] = str(error)
        return tables, problems

    def _whole_camera(self, camera: str, own: list[Recording]) -> pa.Table:
        if self.whole is not None:
            table = self.whole.filter(pc.equal(self.whole["camera"], camera))
            if table.num_rows:
                return table
        elif camera in self.files:
            return self._read(self.files[camera], own)
        raise UserError(
            f"{self.path}: no tracks of camera {camera!r}; expected {camera}.txt, or a file for each of its videos such as"
            f" {own[0].name}.txt; empty where nobody is seen"
        )

    def _read(self, path: Path, own: list[Recording]) -> pa.Table:
        if is_blank(path):
            return TRACKS_SCHEMA.empty_table()
        video, announce = own[0].video, not self.is_announced
        self.is_announced = True  # once will do for thousands of files
        return read_tracks(
            path,
            format=self.format,
            camera=own[0].camera,
            fps=video.fps,
            frame_base=self.frame_base,
            image_size=(video.width, video.height),
            announce=announce,
        )


def _cut(table: pa.Table, own: list[Recording]) -> Tables:
    """A camera's rows by recording; rows beyond all of them stay with the last, where they are found to lie outside."""
    begin = np.cumsum([0, *(one.video.num_frames for one in own)])
    frame = table["frame"].to_numpy()
    number = np.minimum(np.searchsorted(begin, frame, side="right") - 1, len(own) - 1)
    tables = {}
    for position, one in enumerate(own):
        rows = table.filter(pa.array(number == position))
        rows = _with(rows, "frame", rows["frame"].to_numpy() - begin[position])
        tables[one.name] = _on_clock(rows, one)
    return tables


def _on_clock(table: pa.Table, recording: Recording) -> pa.Table:
    """The rows with the recording's camera, and real time from its start and rate."""
    table = _with(table, "camera", [recording.camera] * table.num_rows)
    return _with(table, "time_s", recording.begin_s + table["frame"].to_numpy() / recording.video.fps)


def _with(table: pa.Table, name: str, values) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, TRACKS_SCHEMA.field(name), pa.array(values, TRACKS_SCHEMA.field(name).type))


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) if names else "none"
