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
from taudl_dist.evaluation.matches import JUNK, Labels
from taudl_dist.evaluation.metrics import RankMetrics, rank_metrics_from_features, score_queries, summary
from taudl_dist.evaluation.protocols import BENCHMARKS, Gallery, Protocol, benchmark_of
from taudl_dist.evaluation.reranking import reranked_blocks
from taudl_dist.evaluation.single_shot import expected_cmc

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset

RANKS = (1, 5, 10, 20)
"""Ranks of the CMC that a result states."""
RATES = {**{f"rank{k}": f"R{k}" for k in RANKS}, "mAP": "mAP", "mINP": "mINP"}
"""Rates of a result and their titles in a table."""


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

    def labels(self, rows: slice = slice(None)) -> tuple[Labels, Labels]:
        """Of some queries, and of the gallery."""
        queries = Labels("query", self.query_ids[rows], self.query_cameras[rows])
        return queries, Labels("gallery", self.gallery_ids, self.gallery_cameras)


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

    folder = weights_path(model).parent
    networks = {"model": load_model(folder, device=device)}
    if baselines:
        networks["untrained network"] = untrained_model(folder, device=device)
    rows = pa.concat_tables([probes.query, probes.gallery])
    features = {
        name: embed(network, dataset, rows, frames=protocol.frames, pooling=protocol.pooling, device=device, label=name)
        for name, network in networks.items()
    }
    if baselines:
        name = "colour histogram"
        features[name] = pooled_features(
            colour_histogram, dataset, rows, frames=protocol.frames, pooling=protocol.pooling, label=name
        )
    return [rank_features(name, both, probes, protocol=protocol, device=device) for name, both in features.items()]


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


def read_probes(dataset: Dataset, *, gallery: Gallery = "stored") -> Probes:
    """The query and gallery splits of a dataset, the gallery as the protocol wants it.

    Raises:
        UserError: the dataset has none, tracklets without a person id among them, or not the gallery wanted.
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
    query, held = np.flatnonzero(split == "query"), np.flatnonzero(split == "gallery")
    held = held[_wanted(manifest, query, held, ids, gallery=gallery, dataset=dataset)]
    return Probes(
        query=manifest.take(query),
        gallery=manifest.take(held),
        query_ids=ids[query],
        gallery_ids=ids[held],
        query_cameras=cameras[query],
        gallery_cameras=cameras[held],
    )


def _wanted(
    manifest: pa.Table, query: np.ndarray, held: np.ndarray, ids: np.ndarray, *, gallery: Gallery, dataset: Dataset
) -> np.ndarray:
    """Which gallery rows (bool) the protocol wants; a tracklet that is query too lies at the same place of its shard."""
    place = np.stack([manifest["shard"].to_numpy(), manifest["offset"].to_numpy()], axis=1)
    queries = set(map(tuple, place[query].tolist()))
    is_query = np.array([spot in queries for spot in map(tuple, place[held].tolist())])
    if gallery == "with-queries" and is_query.sum() < len(query):
        raise UserError(
            f"{dataset.location}: {len(query) - is_query.sum()} of {len(query)} queries are not in its gallery, and the"
            " protocol ranks against the gallery with the queries; import it with --gallery with-queries, or pass"
            " --protocol mars"
        )
    return ~is_query & (ids[held] != JUNK) if gallery == "without-queries" else np.ones(len(held), bool)


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
