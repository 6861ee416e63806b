"""Ranking against a gallery that lies in shards: on the ranks of a process group, or in files that Ray tasks map into memory.

Two rounds, a few numbers a match each: what are the matches, and how many wrong answers of each shard stand before them. The result
is that of one process, to the last bit, however the gallery is cut.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import FeatureDistances, Metric
from taudl_dist.evaluation.matches import Labels, Matches, count_before, find_matches, merge
from taudl_dist.evaluation.metrics import AveragePrecision, RankMetrics, score_matches, summary

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Side:
    """Queries or gallery items of one place: features (N, D), an array or the path of an .npy file, and who they show."""

    features: np.ndarray | Path
    ids: np.ndarray
    cameras: np.ndarray

    def array(self) -> np.ndarray:
        """The features; a file is mapped, not read."""
        return np.load(self.features, mmap_mode="r") if isinstance(self.features, Path) else self.features


Run = Callable[[Callable[["Shard"], Result], Sequence["Shard"]], Iterable[Result]]
"""Calls a function with every shard and gives the results in order, as `map` does."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A run of the gallery that starts at position `offset` of the whole."""

    side: Side
    offset: int


def cut(gallery: Sequence[Side]) -> list[Shard]:
    """The shards of a gallery that lies in several places, in order."""
    sizes = [len(side.ids) for side in gallery]
    return [Shard(side=side, offset=sum(sizes[:number])) for number, side in enumerate(gallery)]


def rank_shards(
    queries: Side,
    gallery: Sequence[Side],
    *,
    run: Run = map,
    metric: Metric = "euclidean",
    max_rank: int = 50,
    average_precision: AveragePrecision = "step",
) -> RankMetrics:
    """`rank_metrics_from_features` of a gallery in shards; `run` says who works on them (`ray_run`, or this process)."""
    shards = cut(gallery)
    matches = merge(list(run(functools.partial(_find, queries, metric=metric), shards)))
    before = sum(run(functools.partial(_count, queries, matches=matches, metric=metric), shards))
    scores = score_matches(
        matches, np.asarray(before), num_queries=len(queries.ids), average_precision=average_precision
    )
    return summary([scores], num_gallery=sum(len(side.ids) for side in gallery), max_rank=max_rank)


def rank_distributed(
    queries: Side,
    own_gallery: Side,
    *,
    metric: Metric = "euclidean",
    max_rank: int = 50,
    average_precision: AveragePrecision = "step",
    device: str = "cpu",
) -> RankMetrics:
    """`rank_shards` in a torch process group: every rank has all queries and its own part of the gallery, in rank order.

    Every rank returns the metrics of the whole gallery.
    """
    import torch
    import torch.distributed as dist

    sizes = _gathered(len(own_gallery.ids))
    shard = Shard(side=own_gallery, offset=sum(sizes[: dist.get_rank()]))
    matches = merge(_gathered(_find(queries, shard, metric=metric)))
    before = torch.from_numpy(_count(queries, shard, matches=matches, metric=metric, device=device))
    before = before.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(before)
    scores = score_matches(
        matches, before.cpu().numpy(), num_queries=len(queries.ids), average_precision=average_precision
    )
    return summary([scores], num_gallery=sum(sizes), max_rank=max_rank)


def ray_run(workers: int) -> Run:
    """Shards as Ray tasks on the cluster of RAY_ADDRESS, or on `workers` processes here; features should be files that all see."""

    def run(call: Callable[[Shard], Result], shards: Sequence[Shard]) -> list[Result]:
        from data_tools.ray_tasks import run_on_ray

        def task(number: int) -> Result:
            return call(shards[number])

        results: dict[int, Result] = {}
        for number, result in run_on_ray(task, range(len(shards)), workers=workers):
            if isinstance(result, Exception):
                raise UserError(
                    f"ranking against shard {number} of the gallery failed three times: {result}; give the workers more"
                    " memory, or cut the gallery into more shards"
                )
            results[number] = result
        return [results[number] for number in range(len(shards))]

    return run


def _find(queries: Side, shard: Shard, *, metric: Metric) -> Matches:
    distances, query, gallery = _opened(queries, shard, metric, "cpu")
    return find_matches(distances, query, gallery, offset=shard.offset)


def _count(queries: Side, shard: Shard, *, matches: Matches, metric: Metric, device: str = "cpu") -> np.ndarray:
    distances, query, gallery = _opened(queries, shard, metric, device)
    return count_before(distances, query, gallery, matches, offset=shard.offset)


def _opened(queries: Side, shard: Shard, metric: Metric, device: str) -> tuple[FeatureDistances, Labels, Labels]:
    query, gallery = queries.array(), shard.side.array()
    labels = (
        Labels("query", queries.ids, queries.cameras),
        Labels("gallery", shard.side.ids, shard.side.cameras),
    )
    found = (len(query), len(gallery))
    if found != tuple(map(len, labels)):
        raise UserError(
            f"features of {found[0]} queries and {found[1]} gallery items, expected {tuple(map(len, labels))}"
        )
    return FeatureDistances(query, gallery, metric=metric, device=device), *labels


def _gathered(own: Any) -> list[Any]:
    """What each rank has."""
    import torch.distributed as dist

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone
