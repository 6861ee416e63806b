"""`taudl shard`: videos and tracks -> a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from taudl_dist.commands import parse
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ShardArgs:
    """Samples tracklets (SSTT), cuts their crops out of the videos, and writes them as WebDataset shards.

    Interrupted, it goes on when it is run again with the same flags. The result does not depend on --workers.
    Example: taudl shard --videos videos --tracks tracks --out dataset --interval-s auto --min-distance 50
    """

    videos: str
    """Folder with one video per camera; the file's name is the camera's name."""
    tracks: str
    """Tracks of the same cameras: a folder with one file per camera, or one file with a camera column."""
    out: str
    """Dataset folder to write."""
    interval_s: str = "auto"
    """P of SSTT: seconds between sampling instants, more than people need to cross; `auto` estimates it from the tracks."""
    min_distance: float = 0.0
    """Pixels between the centres of tracklets sampled at one instant; 0 takes all."""
    workers: int = 1
    """Processes; more than one runs as Ray tasks, here or on the cluster of RAY_ADDRESS."""
    format: str = "auto"
    """Format of the tracks: auto, mot, supervision, ultralytics, coco, csv, parquet."""
    frame_base: int | None = None
    """Number of a video's first frame in the tracks, where it is not what their format prescribes (MOTChallenge: 1)."""
    truth: str = "auto"
    """Ground truth for query and gallery: a folder with truth.json, `none`, or `auto` (a folder `truth` beside --tracks)."""
    max_frames: int = 16
    """Crops per tracklet at most, spread evenly over its detections."""
    min_frames: int = 1
    """Tracklets with fewer usable detections are dropped and counted."""
    min_height: int = 16
    """Boxes lower than this (or narrower than a quarter of it), inside the frame, are dropped and counted."""
    max_height: int = 256
    """Higher crops are made smaller; 0 keeps them as they are."""
    crops_per_shard: int = 20_000
    """Crops in one shard, about; a shard is the unit of work."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints what the dataset holds."""
    args = parse(ShardArgs, argv, command="shard")
    if args.workers < 1:
        raise UsageError(f"--workers {args.workers}: expected at least 1")
    from data_tools.corpus import shard_corpus
    from data_tools.sources import ShardSettings

    settings = ShardSettings(
        interval_s=_interval(args.interval_s),
        min_distance=args.min_distance,
        max_frames=args.max_frames,
        min_frames=args.min_frames,
        min_height=args.min_height,
        max_height=args.max_height,
        crops_per_shard=args.crops_per_shard,
    )
    info = shard_corpus(
        args.videos,
        args.tracks,
        args.out,
        settings=settings,
        workers=args.workers,
        format=args.format,
        frame_base=args.frame_base,
        truth=args.truth,
    )
    if args.json:
        print(json.dumps({name: info[name] for name in ("digest", "cameras", "splits", "settings")}))
        return
    for split, counts in info["splits"].items():
        print(f"{split:8} {counts['tracklets']:8} tracklets {counts['frames']:9} crops")
    print(
        f"dataset  {args.out}  ({len(info['cameras'])} cameras, {len(info['shards'])} shards, digest {info['digest'][:12]})"
    )


def _interval(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--interval-s {text}: expected seconds or `auto`") from None
