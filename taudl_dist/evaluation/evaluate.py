"""A model, and optionally its baselines, ranked on the query and gallery splits of a dataset."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.metrics import AveragePrecision, Metric, RankMetrics, rank_metrics_from_features

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset

RANKS = (1, 5, 10, 20)
"""Ranks of the CMC that a result states."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How tracklets become features and features become a ranking."""

    metric: Metric = "euclidean"
    average_precision: AveragePrecision = "step"
    frames: int = 0
    """Evenly spaced frames averaged per tracklet; 0 takes all."""

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise UsageError(f"frames is {self.frames}, expected 0 (all) or more")


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The tracklets to look for and those to look among, each with its person and camera as integers."""

    query: pa.Table
    gallery: pa.Table
    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray

    @property
    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids and cameras in the order of `rank_metrics`."""
        return self.query_ids, self.gallery_ids, self.query_cameras, self.gallery_cameras


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
    protocol: Protocol = Protocol(),
    baselines: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions) of a model on a dataset, with the digests of both.

    Args:
        data: dataset folder with query and gallery splits.
        model: a run folder, a folder with model.safetensors, or that file.
        baselines: also a colour histogram and the network before training, under the key `baselines`.
    """
    from taudl_dist.dataset import open_dataset

    dataset = open_dataset(data)
    ranked = rank(dataset, read_probes(dataset), model, protocol=protocol, baselines=baselines, device=device)
    return result(ranked, dataset, model, protocol=protocol)


def rank(
    dataset: Dataset, probes: Probes, model: str | Path, *, protocol: Protocol, baselines: bool, device: str = "cpu"
) -> list[Ranked]:
    """Features and metrics of the model, then of the baselines."""
    import pyarrow as pa

    from taudl_dist.evaluation.baselines import colour_histogram, untrained_model
    from taudl_dist.evaluation.features import embed, mean_features
    from taudl_dist.model import load_model

    folder = weights_path(model).parent
    networks = {"model": load_model(folder, device=device)}
    if baselines:
        networks["untrained network"] = untrained_model(folder, device=device)
    rows = pa.concat_tables([probes.query, probes.gallery])
    features = {
        name: embed(network, dataset, rows, frames=protocol.frames, device=device, label=name)
        for name, network in networks.items()
    }
    if baselines:
        name = "colour histogram"
        features[name] = mean_features(colour_histogram, dataset, rows, frames=protocol.frames, label=name)
    return [rank_features(name, both, probes, protocol=protocol) for name, both in features.items()]


def rank_features(name: str, features: np.ndarray, probes: Probes, *, protocol: Protocol) -> Ranked:
    """The metrics of features (Q + G, D), queries first."""
    query, gallery = np.split(features, [len(probes.query)])
    metrics = rank_metrics_from_features(
        query, gallery, *probes.targets, metric=protocol.metric, average_precision=protocol.average_precision
    )
    return Ranked(name=name, query=query, gallery=gallery, metrics=metrics)


def read_probes(dataset: Dataset) -> Probes:
    """The query and gallery splits of a dataset.

    Raises:
        UserError: the dataset has none, or tracklets without a person id among them.
    """
    from taudl_dist.dataset import read_manifest

    manifest = read_manifest(dataset, splits=("query", "gallery"))
    split = np.asarray(manifest["split"].to_pylist())
    if not (split == "query").any() or not (split == "gallery").any():
        raise UserError(
            f"{dataset.location} has {(split == 'query').sum()} query and {(split == 'gallery').sum()} gallery tracklets,"
            " and evaluation needs both: shard with --truth (a folder with truth.json, as `taudl synth` writes it),"
            " or import a benchmark with `taudl import`"
        )
    if manifest["person_id"].null_count:
        raise UserError(
            f"{dataset.location}: {manifest['person_id'].null_count} query or gallery tracklets have no person_id"
        )
    ids = np.asarray(manifest["person_id"])
    cameras = np.unique(manifest["camera"].to_pylist(), return_inverse=True)[1]
    query, gallery = np.flatnonzero(split == "query"), np.flatnonzero(split == "gallery")
    return Probes(
        query=manifest.take(query),
        gallery=manifest.take(gallery),
        query_ids=ids[query],
        gallery_ids=ids[gallery],
        query_cameras=cameras[query],
        gallery_cameras=cameras[gallery],
    )


def result(ranked: list[Ranked], dataset: Dataset, model: str | Path, *, protocol: Protocol) -> dict[str, Any]:
    """What `taudl evaluate --json` prints: the model's numbers, how they came about, and the baselines' numbers."""
    first, *others = ranked
    facts = {
        "num_query": len(first.query),
        "num_gallery": len(first.gallery),
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
    columns = [f"rank{k}" for k in RANKS] + ["mAP", "mINP"]
    rows = [{**result, "name": "model"}, *result.get("baselines", [])]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':{width}}" + "".join(f"{'R' + c[4:] if c[:4] == 'rank' else c:>8}" for c in columns)]
    lines += [f"{row['name']:{width}}" + "".join(f"{100 * row[c]:8.1f}" for c in columns) for row in rows]
    return "\n".join([*lines, f"in percent; {conditions(result)}"])


def conditions(result: Mapping[str, Any]) -> str:
    """What the numbers were measured on, in half a sentence."""
    skipped = f" ({result['num_skipped_queries']:,} more have no match)" if result["num_skipped_queries"] else ""
    return (
        f"{result['num_valid_queries']:,} queries{skipped}, gallery of {result['num_gallery']:,},"
        f" {result['metric']} distance"
    )


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
