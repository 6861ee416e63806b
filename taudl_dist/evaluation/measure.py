"""What a model is worth on a dataset, as plain numbers by name: what a run records of each checkpoint it evaluates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from taudl_dist.errors import UserError
from taudl_dist.evaluation.protocols import BENCHMARKS, benchmark_of

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset

RANKED = "mAP"
"""The number that decides where people are known."""
UNLABELLED = "label_free/within_camera_accuracy"
"""The number that decides where they are not: the one that follows rank-1 best, collapsed features included (benchmarks/RESULTS.md)."""


def measure(dataset: Dataset, model: str | Path, *, frames: int = 0, device: str = "cpu") -> dict[str, float]:
    """CMC, mAP and mINP (fractions) by the protocol of the benchmark which the dataset is; or its report without labels.

    Args:
        model: a folder with model.safetensors.
        frames: evenly spaced frames pooled per tracklet; 0: as the protocol says.
    """
    protocol = BENCHMARKS[benchmark_of(dataset.info["settings"])].protocol
    protocol = dataclasses.replace(protocol, frames=frames or protocol.frames)
    if not has_people(dataset):
        from taudl_dist.evaluation.label_free import label_free
        from taudl_dist.model import load_model

        network = load_model(model, device=device)
        return label_free(network, dataset, frames=protocol.frames, metric=protocol.metric, device=device).flat
    from taudl_dist.evaluation.evaluate import numbers, rank
    from taudl_dist.evaluation.probes import read_probes

    probes = read_probes(dataset, gallery=protocol.gallery)
    ranked = rank(dataset, probes, model, protocol=protocol, baselines=False, device=device)
    return numbers(ranked[0].metrics)


def deciding(dataset: Dataset, metric: str = "") -> str:
    """The name of the number by which one model is better than another: `metric`, or what suits the dataset.

    Raises:
        UserError: the dataset does not give that number.
    """
    from taudl_dist.evaluation.evaluate import RATES
    from taudl_dist.evaluation.label_free import MEANINGS, PREFIX

    is_labelled = has_people(dataset)
    names = list(RATES) if is_labelled else [PREFIX + name for name in MEANINGS]
    if metric and metric not in names:
        raise UserError(
            f"evaluation.metric {metric!r}: checkpoints are evaluated on {dataset.location}, which gives {', '.join(names)}"
        )
    return metric or (RANKED if is_labelled else UNLABELLED)


def has_people(dataset: Dataset) -> bool:
    """Whether the dataset has query and gallery."""
    return all(dataset.info["splits"].get(split, {}).get("tracklets") for split in ("query", "gallery"))
