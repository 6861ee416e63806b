"""A gallery in shards ranks as in one piece, bit for bit: in one process, over gloo ranks, and as Ray tasks."""

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation import rank_metrics_from_features
from taudl_dist.evaluation.sharded import Side, rank_distributed, rank_shards, ray_run
from tests.parallel.processes import run_groups

SIZES = (100, 1, 0, 199)


def world():
    """Queries and the gallery in four unequal parts, with equal items in different parts."""
    rng = np.random.default_rng(3)
    gallery = rng.normal(size=(300, 24)).astype(np.float32)
    gallery[150:200] = gallery[:50]
    query = rng.normal(size=(40, 24)).astype(np.float32)
    ids, cameras = rng.integers(-1, 15, 300), rng.integers(0, 3, 300)
    queries = Side(features=query, ids=rng.integers(1, 17, 40), cameras=rng.integers(0, 3, 40))
    stops = np.cumsum(SIZES)
    parts = [Side(features=gallery[a:b], ids=ids[a:b], cameras=cameras[a:b]) for a, b in zip(stops - SIZES, stops)]
    return queries, parts


def in_one_piece(queries, parts, **options):
    features, ids, cameras = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("features", "ids", "cameras")
    )
    return rank_metrics_from_features(queries.features, features, queries.ids, ids, queries.cameras, cameras, **options)


def told(metrics):
    return [metrics.mAP, metrics.mINP, metrics.num_valid_queries, *metrics.cmc.tolist()]


@pytest.mark.parametrize("options", [{}, {"metric": "cosine", "average_precision": "trapezoid", "max_rank": 7}])
def test_shards_rank_as_one_piece(options):
    queries, parts = world()
    assert told(rank_shards(queries, parts, **options)) == told(in_one_piece(queries, parts, **options))


def of_rank(rank, world_size):
    queries, parts = world()
    own = [part for number, part in enumerate(parts) if number * world_size // len(parts) == rank]
    joined = Side(**{name: np.concatenate([getattr(p, name) for p in own]) for name in ("features", "ids", "cameras")})
    return told(rank_distributed(queries, joined))


@pytest.mark.slow
def test_ranks_of_a_process_group_agree_with_one_process(tmp_path):
    expected = told(in_one_piece(*world()))
    for results in run_groups(of_rank, sizes=(1, 2, 4), folder=tmp_path).values():
        assert all(result == expected for result in results)


@pytest.mark.slow
def test_ray_tasks_agree_with_one_process(tmp_path):
    queries, parts = world()
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part.features)
    mapped = [
        Side(features=tmp_path / f"{n}.npy", ids=p.ids, cameras=p.cameras) for n, p in enumerate(parts) if len(p.ids)
    ]
    assert told(rank_shards(queries, mapped, run=ray_run(2))) == told(in_one_piece(queries, parts))


def test_a_shard_that_does_not_fit_its_labels_is_named():
    queries, (first, *_) = world()
    wrong = Side(features=first.features[:-1], ids=first.ids, cameras=first.cameras)
    with pytest.raises(UserError, match=r"99 gallery items, expected \(40, 100\)"):
        rank_shards(queries, [wrong])


def test_a_shard_that_dies_is_named(monkeypatch):
    monkeypatch.setattr("data_tools.ray_tasks.run_on_ray", lambda *_, **__: [(1, MemoryError("killed"))])
    with pytest.raises(UserError, match=r"shard 1 of the gallery failed three times: killed"):
        rank_shards(*world(), run=ray_run(2))
