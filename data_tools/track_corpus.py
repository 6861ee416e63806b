"""Tracks for every video of a folder, one MOTChallenge file each; a run that was stopped goes on where it was.

A video is done when its .txt is there, and a .txt is there only when it is whole. `settings.yaml` keeps two runs with
different settings out of one folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.atomic import remove_leftovers, whole_file
from data_tools.detect import load_detector
from data_tools.track_picture import draw_tracks
from data_tools.tracking import TrackSettings, track_video
from data_tools.tracks import TRACKS_SCHEMA, read_tracks, write_mot
from data_tools.video import find_videos, probe
from taudl_dist.errors import UserError
from taudl_dist.progress import log


def track_corpus(
    videos: str | Path,
    out: str | Path,
    *,
    detector: str,
    weights: str = "",
    min_score: float = 0.3,
    settings: TrackSettings,
    preview: bool = True,
) -> list[dict[str, Any]]:
    """Tracks the people of a video, or of each video of a folder, into `out`; returns a summary per video.

    Raises:
        UserError: bad input, `out` from other settings, or videos that failed (after the others are done).
    """
    videos, out = Path(videos), Path(out)
    if not videos.exists():
        raise UserError(f"--videos {videos}: no such file or folder; expected a video, or a folder with one per camera")
    sources = find_videos(videos) if videos.is_dir() else {videos.stem: videos}
    detect = load_detector(detector, weights=weights, min_score=min_score)
    models = {name: _sha256(Path(name)) for name in (detector, weights) if Path(name).is_file()}
    _claim(out, {"detector": models.get(detector, detector), "weights": models.get(weights, weights),
                 "min_score": min_score, **asdict(settings)})  # fmt: skip
    failed, summaries = [], []
    for stem, video in sources.items():
        try:
            summaries.append(_track_one(video, out / f"{stem}.txt", detect, settings, preview))
        except UserError as error:
            log(f"{video}: failed: {error}")
            failed.append(stem)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(sources)} videos failed ({', '.join(failed[:5])}); the reasons stand above, the others "
            f"are done. Mend or remove these videos and run the command again"
        )
    return summaries


def _track_one(video: Path, path: Path, detect, settings: TrackSettings, preview: bool) -> dict[str, Any]:
    info = probe(video)
    if path.exists():
        log(f"{path}: already there, not tracked again")
        tracks = read_tracks(path, format="mot", fps=info.fps) if path.stat().st_size else TRACKS_SCHEMA.empty_table()
    else:
        tracks = track_video(video, detect, settings)
        write_mot(tracks, path)
    picture = path.with_suffix(".jpg")
    if preview and not picture.exists():
        draw_tracks(video, tracks, picture)
    return {"video": video.name, "frames": info.num_frames, "detections": tracks.num_rows, **_lengths(tracks)}


def _lengths(tracks: pa.Table) -> dict[str, Any]:
    """Number of tracks and quantiles of their durations in seconds; None where there are none."""
    spans = tracks.group_by("track").aggregate([("time_s", "min"), ("time_s", "max")])
    length_s = spans["time_s_max"].to_numpy() - spans["time_s_min"].to_numpy()
    names = ("shortest_s", "median_s", "longest_s")
    quantiles = np.round(np.quantile(length_s, (0, 0.5, 1)), 2).tolist() if len(length_s) else [None] * 3
    return {"tracks": len(length_s), **dict(zip(names, quantiles))}


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Marks the folder as made with these settings; refuses one that was made with others or holds something else."""
    import yaml

    path = out / "settings.yaml"
    if path.exists():
        remove_leftovers(out)
        try:
            found = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UserError(f"{path}: damaged; delete {out} and run the command again") from None
        found = found if isinstance(found, dict) else {}
        name = next((name for name in settings if found.get(name) != settings[name]), None)
        if name is not None:
            raise UserError(
                f"--out {out}: its tracks were made with {name} {found.get(name)!r}, now it is {settings[name]!r}; "
                "give another folder, or the same settings to go on"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    if any(out.iterdir()):
        raise UserError(f"--out {out}: the folder is not empty and was not made by `taudl track`; give another folder")
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
