"""`taudl track`: videos -> tracks, one MOTChallenge file per video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class TrackArgs:
    """Detect and track people in videos, on the CPU; finished videos are not repeated.

    Writes OUT/<video>.txt (MOTChallenge text, for `taudl shard --tracks OUT`) and OUT/<video>.jpg to judge it by.
    Example: taudl track --videos videos --out tracks --detector FastestDet.onnx
    """

    videos: str
    """A video, or a folder with one video per camera."""
    out: str
    """Folder for the tracks; one that an earlier, stopped run began is gone on with."""
    detector: str
    """FastestDet as an .onnx file, or the name of a torchvision detector such as fasterrcnn_mobilenet_v3_large_320_fpn."""
    weights: str = ""
    """COCO weights of a torchvision detector, .pth or .safetensors."""
    min_score: float = 0.3
    """Weaker detections are ignored."""
    start_score: float = 0.7
    """Score of a detection that may begin a track; weaker ones only continue it."""
    tracker: Literal["cbiou", "bytetrack", "ocsort", "sort"] = "cbiou"
    """Tracking method of the `trackers` library."""
    min_seconds: float = 0.5
    """Shorter tracks are left out: false alarms and fragments."""
    every: int = 1
    """Look at each N-th frame only."""
    preview: bool = True
    """Also write a picture per video: its fullest frame with boxes and ids, and the paths of all tracks."""
    json: bool = False
    """Print the summary as JSON."""


def main(argv: Sequence[str]) -> int:
    """Tracks the videos and prints a summary of each."""
    args = parse(TrackArgs, argv, command="track")
    from data_tools.track_corpus import track_corpus
    from data_tools.tracking import TrackSettings

    settings = TrackSettings(
        tracker=args.tracker, start_score=args.start_score, min_seconds=args.min_seconds, every=args.every
    )
    summaries = track_corpus(
        args.videos,
        args.out,
        detector=args.detector,
        weights=args.weights,
        min_score=args.min_score,
        settings=settings,
        preview=args.preview,
    )
    print(json.dumps({"videos": summaries}) if args.json else _table(summaries))
    return 0


def _table(rows: list[dict]) -> str:
    cells = [list(rows[0]), *(["-" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in cells
    )
