"""`taudl plan`: what a training run will touch, worked out from the dataset's index before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taudl_dist.errors import UsageError

if TYPE_CHECKING:
    from taudl_dist.batches import BatchPlan
    from taudl_dist.config import Config

_SAMPLED_STEPS = 50
_STATE_TENSORS = 3  # a head's weights and Adam's two moments


def main(argv: Sequence[str]) -> None:
    """Takes the flags of `taudl train`; exits with code 2 where that many workers could not share a batch."""
    from taudl_dist.commands.train import as_config, parse_args

    args = parse_args(argv, command="plan", description=__doc__)
    config = as_config(args)
    if not config.data:
        raise UsageError("--data DATASET is missing: the plan is worked out from a dataset's index")
    from taudl_dist.batches import BatchPlan

    summary = summarize(BatchPlan(config.data, config), config)
    print(json.dumps(summary) if args.json else _as_text(summary))


def summarize(plan: BatchPlan, config: Config) -> dict[str, Any]:
    """Batch, reading, repetition and memory of a run; per-step numbers are means over its first steps.

    Raises:
        UsageError: more workers than groups.
    """
    import numpy as np

    from taudl_dist.batches import check_world_size, split_groups
    from taudl_dist.config import worker_range

    workers = worker_range(config.workers)[1]
    check_world_size(plan.num_groups, plan.cameras_per_step, workers)
    index, sampled = plan.dataset.training, min(config.steps, _SAMPLED_STEPS)
    batches = [plan.groups(step) for step in range(sampled)]
    rows = [np.concatenate([group.rows for group in groups]) for groups in batches]
    largest = [max(sum(g.num_images for g in run) for run in split_groups(groups, workers)) for groups in batches]
    epochs = plan.epochs(config.steps)
    names = [plan.dataset.cameras[camera] for camera in plan.cameras]
    return {
        "digest": plan.dataset.digest,
        "steps": config.steps,
        "workers": workers,
        "max_workers": plan.num_groups,
        "cameras": len(names),
        "cameras_per_step": plan.cameras_per_step,
        "tracklets_per_camera": plan.tracklets_per_camera,
        "tracklets_per_step": float(np.mean([len(step) for step in rows])),
        "images_per_step": float(np.mean([len(step) for step in rows])) * config.batch.frames,
        "groups_per_step": float(np.mean([len(groups) for groups in batches])),
        "images_per_worker": max(largest),
        "bytes_per_step": float(np.mean([index.length[step].sum() for step in rows])),
        "shards_per_step": float(np.mean([len(np.unique(index.shard[step])) for step in rows])),
        "epochs": {
            "least": [names[epochs.argmin()], float(epochs.min())],
            "median": float(np.median(epochs)),
            "most": [names[epochs.argmax()], float(epochs.max())],
        },
        **_heads(plan, config, workers),
    }


def _heads(plan: BatchPlan, config: Config, workers: int) -> dict[str, Any]:
    """Rows of the classification heads, and the bytes of their weights and optimizer state on the fullest worker."""
    import numpy as np

    from taudl_dist.model import feature_dim
    from taudl_dist.parallel import assign_owners

    label_counts = np.diff(plan.dataset.training.camera_offsets)
    owners = np.asarray(assign_owners(label_counts.tolist(), workers))
    rows = np.bincount(owners, weights=label_counts, minlength=workers)
    row_bytes = (feature_dim(config.model) + 1) * _STATE_TENSORS * (8 if config.precision == "fp64" else 4)
    return {
        "head_rows": int(label_counts.sum()),
        "head_rows_per_worker": [int(count) for count in rows],
        "head_bytes_per_worker": int(rows.max()) * row_bytes,
    }


def _as_text(summary: dict[str, Any]) -> str:
    least, most = summary["epochs"]["least"], summary["epochs"]["most"]
    lines = {
        "batch": f"{summary['cameras_per_step']} of {summary['cameras']} cameras x {summary['tracklets_per_camera']} tracklets:"
        f" {summary['tracklets_per_step']:.1f} tracklets, {summary['images_per_step']:.1f} images,"
        f" {summary['groups_per_step']:.1f} groups",
        "workers": f"{summary['workers']} with at most {summary['images_per_worker']} images each;"
        f" up to {summary['max_workers']} workers can share a batch",
        "reading": f"{summary['bytes_per_step'] / 1e6:.2f} MB from {summary['shards_per_step']:.1f} shards a step,"
        f" {summary['bytes_per_step'] * summary['steps'] / 1e9:.2f} GB in {summary['steps']} steps",
        "epochs": f"{summary['epochs']['median']:.1f} for the median camera, {least[1]:.1f} for {least[0]},"
        f" {most[1]:.1f} for {most[0]}",
        "heads": f"{summary['head_rows']} rows, {max(summary['head_rows_per_worker'])} on the fullest worker:"
        f" {summary['head_bytes_per_worker'] / 1e6:.1f} MB with optimizer state",
    }
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())
