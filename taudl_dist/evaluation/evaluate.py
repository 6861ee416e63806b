"""A model, and optionally its baselines, ranked on the query and gallery splits of a dataset."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import FeatureDistances, MatrixDistances
from taudl_dist.evaluation.metrics import RankMetrics, rank_metrics_from_features, score_queries, summary
from taudl_dist.evaluation.probes import Probes, places, read_probes
from taudl_dist.evaluation.protocols import BENCHMARKS, Protocol, benchmark_of
from taudl_dist.evaluation.reranking import reranked_blocks
from taudl_dist.evaluation.single_shot import expected_cmc

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset

RANKS = (1, 5, 10, 20)
"""Ranks of the CMC that a result states."""
RATES = {**{f"rank{k}": f"R{k}" for k in RANKS}, "mAP": "mAP", "mINP": "mINP"}
"""Rates of a result and their titles in a table."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One way of making features, its features (Q, D) and (G, D), and what their ranking is worth."""

    name: str
    query: np.ndarray
    gallery: np.ndarray
    metrics: RankMetrics


def evaluate(
    data: str | Path,
    model: str | Path,
    *,
    protocol: Protocol | None = None,
    baselines: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions) of a model on a dataset, with the digests of both.

    Args:
        data: dataset folder with query and gallery splits.
        model: a run folder, a folder with model.safetensors, or that file.
        protocol: None: that of the benchmark which the dataset is.
        baselines: also a colour histogram and the network before training, under the key `baselines`.
    """
    from taudl_dist.dataset import open_dataset

    dataset = open_dataset(data)
    name = benchmark_of(dataset.info["settings"])
    protocol = protocol or BENCHMARKS[name].protocol
    probes = read_probes(dataset, gallery=protocol.gallery)
    ranked = rank(dataset, probes, model, protocol=protocol, baselines=baselines, device=device)
    return result(ranked, dataset, model, protocol=protocol, name=name)


def rank(
    dataset: Dataset, probes: Probes, model: str | Path, *, protocol: Protocol, baselines: bool, device: str = "cpu"
) -> list[Ranked]:
    """Features and metrics of the model, then of the baselines."""
    import pyarrow as pa

    from taudl_dist.evaluation.baselines import colour_histogram, untrained_model
    from taudl_dist.evaluation.features import embed, pooled_features
    from taudl_dist.model import load_model
    from taudl_dist.training.saved import run_of

    folder = weights_path(model).parent
    networks = {"model": load_model(folder, device=device)}
    if baselines:
        networks["untrained network"] = untrained_model(run_of(folder), device=device)
    rows = pa.concat_tables([probes.query, probes.gallery])
    _, first, place = np.unique(places(rows), return_index=True, return_inverse=True)
    rows = rows.take(first)  # what is query and gallery is embedded once
    frames, pooling = protocol.frames, protocol.pooling
    features = {
        name: embed(network, dataset, rows, frames=frames, pooling=pooling, device=device, label=name)
        for name, network in networks.items()
    }
    if baselines:
        name = "colour histogram"
        features[name] = pooled_features(colour_histogram, dataset, rows, frames=frames, pooling=pooling, label=name)
    return [rank_features(name, of[place], probes, protocol=protocol, device=device) for name, of in features.items()]


def rank_features(
    name: str, features: np.ndarray, probes: Probes, *, protocol: Protocol, device: str = "cpu"
) -> Ranked:
    """The metrics of features (Q + G, D), queries first."""
    query, gallery = np.split(features, [len(probes.query)])
    if protocol.rerank:
        metrics = _reranked_metrics(query, gallery, probes, protocol, device)
    else:
        metrics = rank_metrics_from_features(
            query,
            gallery,
            *probes.targets,
            metric=protocol.metric,
            average_precision=protocol.average_precision,
            device=device,
        )
    if protocol.single_shot:
        distances = FeatureDistances(query, gallery, metric=protocol.metric)
        metrics = dataclasses.replace(metrics, cmc=expected_cmc(distances, *probes.labels()))
    return Ranked(name=name, query=query, gallery=gallery, metrics=metrics)


def _reranked_metrics(
    query: np.ndarray, gallery: np.ndarray, probes: Probes, protocol: Protocol, device: str
) -> RankMetrics:
    parts = [
        score_queries(MatrixDistances(block), *probes.labels(rows), average_precision=protocol.average_precision)
        for rows, block in reranked_blocks(query, gallery, metric=protocol.metric, device=device)
    ]
    return summary(parts, num_gallery=len(gallery))


def result(
    ranked: list[Ranked], dataset: Dataset, model: str | Path, *, protocol: Protocol, name: str = "standard"
) -> dict[str, Any]:
    """What `taudl evaluate --json` prints: the model's numbers, how they came about, and the baselines' numbers."""
    first, *others = ranked
    facts = {
        "num_query": len(first.query),
        "num_gallery": len(first.gallery),
        "protocol": name,
        "split": dataset.info["settings"].get("split"),
        **dataclasses.asdict(protocol),
        "dataset": dataset.location,
        "dataset_digest": dataset.digest,
        "model": str(model),
        "model_digest": model_digest(model),
    }
    rows = {"baselines": [{"name": other.name, **numbers(other.metrics)} for other in others]} if others else {}
    return {**numbers(first.metrics), **facts, **rows}


def numbers(metrics: RankMetrics) -> dict[str, float]:
    """The numbers of one row of a result, as fractions."""
    return {
        **{f"rank{k}": metrics.rank(k) for k in RANKS},
        "mAP": metrics.mAP,
        "mINP": metrics.mINP,
        "num_valid_queries": metrics.num_valid_queries,
        "num_skipped_queries": metrics.num_skipped_queries,
    }


def table(result: Mapping[str, Any]) -> str:
    """A result as text: a row for the model and for each baseline, in percent."""
    rows = [{**result, "name": "model"}, *result.get("baselines", [])]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':{width}}" + "".join(f"{title:>8}" for title in RATES.values())]
    lines += [f"{row['name']:{width}}" + "".join(f"{100 * row[c]:8.1f}" for c in RATES) for row in rows]
    return "\n".join([*lines, f"in percent; {conditions(result)}"])


def conditions(result: Mapping[str, Any]) -> str:
    """What the numbers were measured on, in half a sentence."""
    skipped = f" ({result['num_skipped_queries']:,} more have no match)" if result["num_skipped_queries"] else ""
    return (
        f"{result['num_valid_queries']:,} queries{skipped}, gallery of {result['num_gallery']:,},"
        f" {result['metric']} distance{''.join(f', {remark}' for remark in _remarks(result))}"
    )


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """What is not as usual."""
    num_splits = BENCHMARKS[result["protocol"]].num_splits
    remarks = {
        "trapezoid average precision": result["average_precision"] == "trapezoid",
        "largest value over frames": result["pooling"] == "max",
        "k-reciprocal re-ranking": result["rerank"],
        "CMC with one gallery image per person, in expectation": result["single_shot"],
        f"split {result['split']}; published numbers are the mean of {num_splits} splits": num_splits > 1,
    }
    return [remark for remark, holds in remarks.items() if holds]


def weights_path(model: str | Path) -> Path:
    """The model.safetensors a user means with a run folder, a folder that holds it, or the file itself."""
    path = Path(model)
    weights = path if path.name == "model.safetensors" else path / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"--model {model}: no model.safetensors there; expected a run folder whose training has ended, or the file"
        )
    return weights


def model_digest(model: str | Path) -> str:
    """sha256 of the weights file."""
    with weights_path(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
