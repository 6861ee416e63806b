"""What a training run will touch, worked out from the plan before anything is spent: batch, reading, cache, repetition, heads, traffic.

Numbers of a step are means over steps sampled evenly from the run; nothing is read but the training index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taudl_dist.batches.plan import BatchPlan, Layout, check_world_size
from taudl_dist.config import Config, ModelConfig
from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.extent_cache import disk_bytes

_SAMPLED_STEPS = 50
_STATE_TENSORS = 3  # a head's weights and Adam's two moments


def forecast(plan: BatchPlan, config: Config, *, workers: int, steps_per_second: float) -> dict[str, Any]:
    """A JSON-ready summary of a run; sizes in bytes.

    Args:
        workers: W.
        steps_per_second: the pace for which the reading and the traffic of a second are given.

    Raises:
        UsageError: more workers than groups.
    """
    check_world_size(plan.num_groups, plan.cameras_per_step, workers)
    spread = np.unique(np.linspace(0, config.steps - 1, min(config.steps, _SAMPLED_STEPS)).astype(np.int64))
    sample = [_Step.of(plan, plan.layout(step), workers) for step in spread.tolist()]
    heads = _Heads.of(plan, config, sample, workers)
    traffic = _traffic(heads, config, sample, workers)
    return {
        "digest": plan.dataset.digest,
        "steps": config.steps,
        "workers": workers,
        "max_workers": plan.num_groups,
        **_batch(plan, sample),
        **_reading(sample, steps_per_second),
        "cache": _cache(plan, config, sample, workers),
        "epochs": _epochs(plan, config),
        **_memory(heads, config, workers),
        "traffic": {"bytes_per_step": traffic, "bytes_per_second": sum(traffic.values()) * steps_per_second},
    }


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One planned step, with what the index says of its tracklets."""

    layout: Layout
    rank_tracklets: tuple[int, ...]
    length: NDArray[np.int64]
    """(N,) bytes of each tracklet."""
    num_frames: NDArray[np.int32]
    """(N,) images each has on disk."""
    shards: NDArray[np.int32]
    """Those the tracklets lie in, each once."""
    frames: int
    """F, images used of each."""

    @classmethod
    def of(cls, plan: BatchPlan, layout: Layout, workers: int) -> _Step:
        take = plan.dataset.training.take
        return cls(
            layout=layout,
            rank_tracklets=layout.rank_tracklets(workers),
            length=take("length", layout.rows),
            num_frames=take("num_frames", layout.rows),
            shards=np.unique(take("shard", layout.rows)),
            frames=plan.config.batch.frames,
        )

    def of_rank(self, values: NDArray[Any], rank: int) -> NDArray[Any]:
        """Those of a worker's tracklets among values (N,)."""
        return np.split(values, np.cumsum(self.rank_tracklets[:-1]))[rank]


def _mean(values: list[Any]) -> float:
    return float(np.mean(values))


def _batch(plan: BatchPlan, sample: list[_Step]) -> dict[str, Any]:
    frames = plan.config.batch.frames
    tracklets = _mean([len(step.layout.rows) for step in sample])
    return {
        "cameras": len(plan.cameras),
        "cameras_without_tracklets": len(plan.dataset.cameras) - len(plan.cameras),
        "cameras_per_step": plan.cameras_per_step,
        "tracklets_per_camera": plan.tracklets_per_camera,
        "tracklets_per_step": tracklets,
        "images_per_step": tracklets * frames,
        "groups_per_step": _mean([step.layout.num_groups for step in sample]),
        "images_per_worker": max(max(step.rank_tracklets) for step in sample) * frames,
    }


def _reading(sample: list[_Step], steps_per_second: float) -> dict[str, Any]:
    size = _mean([step.length.sum() for step in sample])
    images = _mean([len(step.length) * step.frames for step in sample])
    return {
        "bytes_per_step": size,
        "images_read_per_step": _mean([step.num_frames.sum() for step in sample]),
        "shards_per_step": _mean([len(step.shards) for step in sample]),
        "steps_per_second": steps_per_second,
        "images_per_second": images * steps_per_second,
        "bytes_per_second": size * steps_per_second,
    }


def _cache(plan: BatchPlan, config: Config, sample: list[_Step], workers: int) -> dict[str, Any]:
    """Of remote shards: what lies on disk for the steps ahead, and what would have to, for nothing to be fetched twice."""
    steps = range(min(config.storage.ahead_steps + 1, config.steps))  # and the step in use
    ahead = [_Step.of(plan, plan.layout(step), workers) for step in steps]
    sizes = np.diff(plan.dataset.training.camera_offsets)[plan.cameras]
    distinct = float((sizes * np.minimum(plan.epochs(config.steps), 1)).sum())
    return {
        "ahead_steps": config.storage.ahead_steps,
        "ahead_bytes_per_worker": max(_bytes_cached(ahead, rank) for rank in range(workers)),
        "shards_ahead": len(np.unique(np.concatenate([step.shards for step in ahead]))),
        "distinct_tracklets": distinct,
        "distinct_share": distinct / float(sizes.sum()),
        "distinct_bytes": distinct * float(_on_disk(np.concatenate([step.length for step in sample])).mean()),
        "uses_per_tracklet": config.steps * _mean([len(step.length) for step in sample]) / distinct,
    }


def _bytes_cached(steps: list[_Step], rank: int) -> int:
    """Room on the disk of a worker for all it needs in these steps, each tracklet once."""
    rows = np.concatenate([step.of_rank(step.layout.rows, rank) for step in steps])
    lengths = np.concatenate([step.of_rank(step.length, rank) for step in steps])
    return int(_on_disk(lengths[np.unique(rows, return_index=True)[1]]).sum())


def _on_disk(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([disk_bytes(Extent(0, 0, length)) for length in lengths.tolist()], np.int64)


def _epochs(plan: BatchPlan, config: Config) -> dict[str, Any]:
    epochs = plan.epochs(config.steps)
    name = [plan.dataset.cameras[camera] for camera in plan.cameras]
    return {
        "least": [name[epochs.argmin()], float(epochs.min())],
        "median": float(np.median(epochs)),
        "most": [name[epochs.argmax()], float(epochs.max())],
    }


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Where the classification heads lie, and the images they see."""

    labels: NDArray[np.int64]
    """Of each head: one a camera, or one for all cameras (JCC)."""
    held: NDArray[np.int64]
    """(W,) labels on each worker."""
    exchanged: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]
    """Of each sampled step: images (W,) a worker sends, receives, and computes the cross entropy of."""
    moved_labels: float
    """Labels whose heads a step moves."""
    pairs_sent: float
    """Pairs of a tracklet and a camera for which mutual association moves features, of a worker on average."""

    @classmethod
    def of(cls, plan: BatchPlan, config: Config, sample: list[_Step], workers: int) -> _Heads:
        from taudl_dist.parallel import assign_owners
        from taudl_dist.parallel.traffic import images_exchanged

        training, is_joint = plan.dataset.training, config.loss.joint_labels
        labels = np.array([len(training)]) if is_joint else np.diff(training.camera_offsets)
        owners = np.array(assign_owners(labels.tolist(), workers))
        heads = [np.zeros_like(step.layout.cameras) if is_joint else step.layout.cameras for step in sample]
        return cls(
            labels=labels,
            held=np.bincount(owners, weights=labels, minlength=workers).astype(np.int64),
            exchanged=[
                images_exchanged(head, step.rank_tracklets, owners, frames=step.frames)
                for head, step in zip(heads, sample)
            ],
            moved_labels=_mean([labels[np.unique(head)].sum() for head in heads]),
            pairs_sent=_mean([_pairs_moved(step, head, owners, config) / workers for step, head in zip(sample, heads)]),
        )


def _pairs_moved(step: _Step, cameras: NDArray[np.int64], owners: NDArray[np.int64], config: Config) -> int:
    """Pairs of a step whose images lie on another worker than the head they are sought in."""
    from taudl_dist.losses.mutual import sought_pairs

    if not config.loss.mutual_weight:
        return 0
    tracklets, sought = sought_pairs(cameras, step=0, at_most=config.loss.mutual_cameras)
    origins = np.repeat(np.arange(len(step.rank_tracklets)), step.rank_tracklets)
    return int((origins[tracklets] != owners[sought]).sum())


def _is_replicated(config: Config, workers: int) -> bool:
    return config.parallel.heads == "replicated" and workers > 1


def _value_bytes(config: Config) -> int:
    return 8 if config.precision == "fp64" else 4


def _memory(heads: _Heads, config: Config, workers: int) -> dict[str, Any]:
    """Of the heads' weights and optimizer state on the fullest worker; and how unevenly a step's images meet them."""
    from taudl_dist.model import feature_dim

    total, is_replicated = int(heads.labels.sum()), _is_replicated(config, workers)
    held = [total] * workers if is_replicated else heads.held.tolist()
    busiest = _mean([computed.max() / computed.mean() for _, _, computed in heads.exchanged])
    return {
        "head_rows": total,
        "head_rows_per_worker": held,
        "head_bytes_per_worker": max(held) * (feature_dim(config.model) + 1) * _value_bytes(config) * _STATE_TENSORS,
        "head_images_busiest_over_mean": 1.0 if is_replicated else busiest,
    }


def _traffic(heads: _Heads, config: Config, sample: list[_Step], workers: int) -> dict[str, float]:
    """Bytes that a worker sends in a step, by what they are."""
    from taudl_dist.model import feature_dim
    from taudl_dist.parallel.traffic import StepCounts, step_traffic

    parameters, statistics = _network_counts(config.model)
    is_replicated = _is_replicated(config, workers)
    counts = StepCounts(
        world_size=workers,
        parameters=parameters,
        statistics=statistics * (3 if config.model.batch_norm == "sync" else 1),
        feature_dim=feature_dim(config.model),
        rows_to_all=max(max(step.rank_tracklets) for step in sample) if config.loss.ccta_weight else 0,
        images_sent=0.0 if is_replicated else _mean([sent for sent, _, _ in heads.exchanged]),
        sought_sent=heads.pairs_sent * config.batch.frames,
        signatures_sent=heads.pairs_sent,
        head_rows=round(heads.moved_labels) if is_replicated else 0,
        value_bytes=_value_bytes(config),
    )
    return step_traffic(counts)


def _network_counts(config: ModelConfig) -> tuple[int, int]:
    """Parameters, and numbers of batch norm statistics, of the network; no memory for its weights is taken."""
    import torch

    from taudl_dist.model import ReidModel, feature_dim
    from taudl_dist.model.batch_norm import batch_norm_layers

    with torch.device("meta"):
        model = ReidModel(config.name, feature_dim=feature_dim(config))
    statistics = sum(2 * layer.num_features + 1 for layer in batch_norm_layers(model))
    return sum(parameter.numel() for parameter in model.parameters()), statistics
