"""`taudl plan`: what a training run will touch, worked out from the dataset's index before anything is spent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taudl_dist.commands.train import TrainArgs, as_config, parse_args
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PlanArgs(TrainArgs):
    """Print what a training run will touch, from the dataset's index alone: batch, reading, cache, epochs, memory of heads, traffic.

    Takes the flags of `taudl train`, and exits with code 2 where that many workers could not share a batch.

    Example: taudl plan --data dataset --workers 8 --steps 20000 --steps-per-second 5
    """

    steps_per_second: float = 1.0
    """Pace of training for which the reading and the traffic of a second are given."""


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv, PlanArgs, command="plan")
    config = as_config(args)
    if not config.data:
        raise UsageError("--data DATASET is missing: the plan is worked out from a dataset's index")
    if not (math.isfinite(args.steps_per_second) and args.steps_per_second > 0):
        raise UsageError(f"--steps-per-second {args.steps_per_second}: expected a number above 0")
    from taudl_dist.batches import BatchPlan
    from taudl_dist.batches.forecast import forecast
    from taudl_dist.config import worker_range

    workers = worker_range(config.workers)[1]
    summary = forecast(BatchPlan(config.data, config), config, workers=workers, steps_per_second=args.steps_per_second)
    print(json.dumps(summary) if args.json else _as_text(summary))


def _as_text(summary: dict[str, Any]) -> str:
    least, most = summary["epochs"]["least"], summary["epochs"]["most"]
    cache, traffic = summary["cache"], summary["traffic"]
    parts = [f"{name} {_bytes(size)}" for name, size in traffic["bytes_per_step"].items() if size]
    lines = {
        "batch": f"{summary['cameras_per_step']} of {summary['cameras']} cameras x {summary['tracklets_per_camera']} tracklets:"
        f" {summary['tracklets_per_step']:.1f} tracklets, {summary['images_per_step']:.1f} images,"
        f" {summary['groups_per_step']:.1f} groups",
        "workers": f"{summary['workers']} with at most {summary['images_per_worker']} images each;"
        f" up to {summary['max_workers']} workers can share a batch",
        "reading": f"{_bytes(summary['bytes_per_step'])} a step ({summary['images_read_per_step']:.0f} images, of which"
        f" {summary['images_per_step']:.0f} are used) from {summary['shards_per_step']:.1f} shards,"
        f" {_bytes(summary['bytes_per_step'] * summary['steps'])} in {summary['steps']} steps",
        "pace": f"{summary['steps_per_second']:g} steps/s need {summary['images_per_second']:.0f} images/s decoded and"
        f" {_bytes(summary['bytes_per_second'])}/s read, by all workers together",
        "cache": f"{_bytes(cache['ahead_bytes_per_worker'])} a worker for {cache['ahead_steps']} steps ahead"
        f" ({cache['shards_ahead']} shards live); {_bytes(cache['distinct_bytes'])} in all for nothing to be fetched twice:"
        f" {cache['distinct_tracklets']:.0f} tracklets ({cache['distinct_share']:.1%} of all), each used"
        f" {cache['uses_per_tracklet']:.1f} times",
        "epochs": f"{summary['epochs']['median']:.3g} for the median camera, {least[1]:.3g} for {least[0]},"
        f" {most[1]:.3g} for {most[0]}",
        "heads": f"{summary['head_rows']} rows, {max(summary['head_rows_per_worker'])} on the fullest worker:"
        f" {_bytes(summary['head_bytes_per_worker'])} with optimizer state; the busiest has"
        f" {summary['head_images_busiest_over_mean']:.1f} times the mean of images",
        "traffic": f"{_bytes(sum(traffic['bytes_per_step'].values()))} sent by each worker a step ({', '.join(parts)})"
        if parts
        else "none: one worker",
    }
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())


def _bytes(size: float) -> str:
    """A size with about three digits."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    rounded = float(f"{size:.3g}")  # 999.9 kB is 1 MB
    power = min(int(math.log10(max(rounded, 1)) / 3), len(units) - 1)
    return f"{size / 1000**power:.3g} {units[power]}"
