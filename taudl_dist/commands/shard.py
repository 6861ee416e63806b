"""`taudl shard`: videos and tracks -> a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taudl_dist.commands import parse
from taudl_dist.errors import UsageError

if TYPE_CHECKING:
    from data_tools.corpus_plan import Inputs, Policy
    from data_tools.sources import ShardSettings


@dataclass(frozen=True, kw_only=True)
class ShardArgs:
    """Samples tracklets (SSTT), cuts their crops out of the videos, and writes them as WebDataset shards.

    Interrupted, it goes on when it is run again with the same flags. The result does not depend on --workers.
    A camera of many files with gaps is a folder: videos/<camera>/*.mp4; see also --starts and --start-pattern.
    Videos, tracks and output may each lie in an object store: s3://bucket/folder or gs://bucket/folder, credentials as its own tools
    take them.
    Example: taudl shard --videos videos --tracks tracks --out dataset --interval-s auto --min-distance 50
    """

    videos: str
    """Folder with one video per camera, whose name is the camera's name, or a folder of videos per camera."""
    tracks: str
    """Tracks: a folder with a file per camera, or per video at the same place as the video, or one file with a camera column."""
    out: str
    """Dataset folder to write."""
    interval_s: str = "auto"
    """P of SSTT: seconds between sampling instants, more than people need to cross; `auto` estimates it from the tracks."""
    min_distance: float = 0.0
    """Pixels between the centres of tracklets sampled at one instant; 0 takes all."""
    workers: int = 1
    """Processes that make units; more than one runs as Ray tasks, here or on the cluster of RAY_ADDRESS."""
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
    min_length_s: float = 0.0
    """Training tracklets that last shorter are dropped and counted."""
    edge_margin: int | None = None
    """Boxes that come nearer than so many pixels to the frame's edge (the person may be cut off) are dropped and counted."""
    max_overlap: float = 1.0
    """Boxes of which another track's box covers a larger share are dropped and counted; 1 keeps all."""
    crops_per_shard: int = 20_000
    """Crops in one shard, about; a shard is the unit of work."""
    window_s: float = 3600.0
    """Cameras of many files: a shard holds tracklets of one such window of the clock."""
    starts: str = ""
    """Cameras of many files: CSV with the columns camera, file, start (ISO 8601 or seconds since 1970)."""
    start_pattern: str = ""
    """Cameras of many files: how file names tell camera and start, as in `{camera}/%Y-%m-%d/%H%M%S_*`."""
    max_failed_share: float = 0.0
    """Share of the videos, and of the tracklets, that may fail; they are listed in failures.json."""
    retry_failed: bool = False
    """Try again what failed, also when the dataset was finished without it."""
    extend: bool = False
    """Add the videos that are new in the folder; what is there stays as it is, and so does P."""
    dry_run: bool = False
    """Print the plan and an estimate, and write nothing."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints what the dataset holds."""
    args = parse(ShardArgs, argv, command="shard")
    if args.workers < 1:
        raise UsageError(f"--workers {args.workers}: expected at least 1")
    from data_tools.corpus import shard_corpus
    from data_tools.corpus_plan import Inputs, Policy
    from data_tools.sources import ShardSettings

    settings = ShardSettings(
        interval_s=_interval(args.interval_s),
        min_distance=args.min_distance,
        max_frames=args.max_frames,
        min_frames=args.min_frames,
        min_height=args.min_height,
        max_height=args.max_height,
        min_length_s=args.min_length_s,
        edge_margin=args.edge_margin,
        max_overlap=args.max_overlap,
        crops_per_shard=args.crops_per_shard,
        window_s=args.window_s,
    )
    inputs = Inputs(
        videos=args.videos,
        tracks=args.tracks,
        format=args.format,
        frame_base=args.frame_base,
        truth=args.truth,
        starts=args.starts,
        start_pattern=args.start_pattern,
    )
    policy = Policy(max_failed_share=args.max_failed_share, retry_failed=args.retry_failed, extend=args.extend)
    if args.dry_run:
        _print_estimate(args, inputs, settings=settings, policy=policy)
        return
    info = shard_corpus(**vars(inputs), out=args.out, settings=settings, workers=args.workers, policy=policy)
    if args.json:
        print(json.dumps({name: info[name] for name in ("digest", "cameras", "splits", "settings")}))
        return
    for split, counts in info["splits"].items():
        print(f"{split:8} {counts['tracklets']:8} tracklets {counts['frames']:9} crops")
    print(
        f"dataset  {args.out}  ({len(info['cameras'])} cameras, {len(info['shards'])} shards, digest {info['digest'][:12]})"
    )


def _print_estimate(args: ShardArgs, inputs: Inputs, *, settings: ShardSettings, policy: Policy) -> None:
    from data_tools.estimate import estimate, estimate_table

    found = estimate(inputs, args.out, settings=settings, policy=policy, workers=args.workers)
    print(json.dumps(found) if args.json else estimate_table(found))


def _interval(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--interval-s {text}: expected seconds or `auto`") from None
