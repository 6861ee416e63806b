"""`taudl drop`: removes cameras, times or tracklets from a dataset for good."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from taudl_dist.commands import parse
from taudl_dist.commands.dataset_argument import Positional, dataset_path
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DropArgs:
    """Removes tracklets from a dataset with their bytes, for instance because someone must be forgotten.

    The digest changes, and a line in drops.jsonl says what was dropped and why. `taudl shard` will not bring it back.
    Copies, backups and trained models are not reached.
    Example: taudl drop dataset --camera hall --from-time 2026-01-31T08:00:00Z --to-time 2026-01-31T08:10:00Z --reason "request 17"
    """

    dataset: Annotated[str, Positional] = ""
    """Dataset folder."""
    data: str = ""
    """The dataset folder, as a flag."""
    camera: tuple[str, ...] = ()
    """Cameras; without a time range all of them goes."""
    from_time: str = ""
    """Tracklets that are in view at or after it: ISO 8601 or seconds since 1970; seconds of the video where a camera is one file."""
    to_time: str = ""
    """Tracklets that are in view at or before it."""
    tracklet: tuple[str, ...] = ()
    """Keys of tracklets."""
    reason: str = ""
    """Why, for the record."""
    resume: bool = False
    """Go on with a drop that was interrupted."""
    dry_run: bool = False
    """Print what would go, and change nothing."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints what is gone."""
    args = parse(DropArgs, argv, command="drop")
    path = dataset_path(args.dataset, args.data)
    from data_tools.drop import drop, find_forgotten, resume_drop
    from data_tools.forgotten import Forget
    from data_tools.recordings import parse_time

    if args.resume:
        if args.camera or args.from_time or args.to_time or args.tracklet or args.dry_run:
            raise UsageError("--resume goes on with what was begun; give it alone")
        line = resume_drop(path)
    else:
        times = {name: getattr(args, name) for name in ("from_time", "to_time")}
        bounds = {
            f"{name.split('_')[0]}_s": parse_time(text, f"--{name.replace('_', '-')}")
            for name, text in times.items()
            if text
        }
        forget = Forget(cameras=args.camera, keys=args.tracklet, **bounds)
        if args.dry_run:
            rows = find_forgotten(path, forget).select(["camera", "split", "key", "num_frames", "start_s", "end_s"])
            for row in rows.to_pylist():
                print(json.dumps(row))
            return
        line = drop(path, forget, reason=args.reason)
    if args.json:
        print(json.dumps(line))
        return
    print(f"dropped  {line['tracklets']} tracklets, {line['images']} images")
    print(f"dataset  {path}  (digest {line['digest'][:12]}, was {line['digest_before'][:12]})")
