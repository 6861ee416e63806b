"""What a model is worth on a dataset, as plain numbers by name: what a run records of each checkpoint it evaluates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from taudl_dist.errors import UserError
from taudl_dist.evaluation.protocols import BENCHMARKS, benchmark_of

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset


def measure(dataset: Dataset, model: str | Path, *, frames: int = 0, device: str = "cpu") -> dict[str, float]:
    """CMC, mAP and mINP (fractions) by the protocol of the benchmark which the dataset is.

    Args:
        model: a folder with model.safetensors.
        frames: evenly spaced frames pooled per tracklet; 0: as the protocol says.
    """
    from taudl_dist.evaluation.evaluate import numbers, rank
    from taudl_dist.evaluation.probes import read_probes

    protocol = BENCHMARKS[benchmark_of(dataset.info["settings"])].protocol
    protocol = dataclasses.replace(protocol, frames=frames or protocol.frames)
    probes = read_probes(dataset, gallery=protocol.gallery)
    ranked = rank(dataset, probes, model, protocol=protocol, baselines=False, device=device)
    return numbers(ranked[0].metrics)


def deciding(dataset: Dataset, metric: str = "") -> str:
    """The name of the number by which one model is better than another: `metric`, or mAP.

    Raises:
        UserError: the dataset does not give that number.
    """
    from taudl_dist.evaluation.evaluate import RATES

    splits = dataset.info["splits"]
    if not all(splits.get(split, {}).get("tracklets") for split in ("query", "gallery")):
        raise UserError(
            f"{dataset.location} has no query and gallery to evaluate checkpoints on; name another dataset with --evaluate-data,"
            " or leave --evaluate-every out"
        )
    if metric and metric not in RATES:
        raise UserError(f"evaluation.metric {metric!r}: {dataset.location} gives {', '.join(RATES)}")
    return metric or "mAP"
