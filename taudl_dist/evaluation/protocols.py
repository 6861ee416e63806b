"""The benchmarks' protocols: what is ranked against what, and how a number comes out of it.

All drop from a query's ranking what its own camera saw of its person, and junk (-1); all count over the queries that have a match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from taudl_dist.errors import UsageError
from taudl_dist.evaluation.distances import Metric
from taudl_dist.evaluation.metrics import AveragePrecision

Pooling = Literal["mean", "max"]
Gallery = Literal["stored", "without-queries", "with-queries"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How tracklets become features and features become a ranking."""

    metric: Metric = "euclidean"
    average_precision: AveragePrecision = "step"
    frames: int = 0
    """Evenly spaced frames pooled per tracklet; 0 takes all."""
    pooling: Pooling = "mean"
    gallery: Gallery = "stored"
    """What the dataset holds; the same without queries and junk; or the same, which must hold every query."""
    single_shot: bool = False
    """CMC with one gallery image per person, drawn evenly; mAP and mINP stay those of the whole gallery."""
    rerank: bool = False
    """k-reciprocal re-ranking with the settings of its paper."""

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise UsageError(f"frames is {self.frames}, expected 0 (all) or more")
        if self.rerank and self.single_shot:
            raise UsageError("re-ranking together with the single-gallery-shot CMC is not defined; leave one out")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A protocol with a name, and how many splits of the benchmark a published number is the mean of."""

    protocol: Protocol = Protocol()
    num_splits: int = 1


BENCHMARKS: Mapping[str, Benchmark] = {
    "standard": Benchmark(),
    "market1501": Benchmark(),
    "dukemtmcreid": Benchmark(),
    "cuhk03": Benchmark(),
    "cuhk03-classic": Benchmark(protocol=Protocol(single_shot=True), num_splits=20),
    "prid2011": Benchmark(num_splits=10),
    "ilids-vid": Benchmark(num_splits=10),
    "mars": Benchmark(protocol=Protocol(gallery="without-queries")),
    "mars-official": Benchmark(
        protocol=Protocol(metric="cosine", average_precision="trapezoid", pooling="max", gallery="with-queries")
    ),
}
"""`mars` is what torchreid, and the released code of TAUDL, do: 9,330 gallery tracklets, 1,840 valid queries. `mars-official` is the
MATLAB code of the benchmark's authors: 12,180, all 1,980 valid, the largest value over frames, unit length."""


def benchmark_of(settings: Mapping[str, Any]) -> str:
    """The name of the protocol that a dataset's settings (dataset.json) ask for; `standard` for what is no benchmark."""
    name = str(settings.get("benchmark", "standard"))
    if name == "cuhk03" and settings.get("protocol") == "classic":
        return "cuhk03-classic"
    if name == "mars" and settings.get("gallery") == "with-queries":
        return "mars-official"
    return name if name in BENCHMARKS else "standard"
