"""`taudl plan`: its numbers against counting by hand, odd datasets, messages and exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from taudl_dist import cli
from taudl_dist.batches import BatchPlan
from taudl_dist.commands.plan import _bytes
from taudl_dist.config import resolve
from taudl_dist.dataset import open_dataset
from taudl_dist.dataset.index import write_index

SIZES = [9, 0, 4, 2, 12]
SHARDS_PER_CAMERA = 2


def write_dataset(folder, sizes):
    """A dataset of which only the index exists, with numbers to tell apart."""
    folder.mkdir()
    camera, rng = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(0)
    total = sum(sizes)
    columns = {
        "label": np.concatenate([np.arange(size) for size in sizes]),
        "shard": camera * SHARDS_PER_CAMERA + rng.integers(0, SHARDS_PER_CAMERA, total),
        "offset": np.arange(total) * 512,
        "length": rng.integers(1000, 9000, total),
        "num_frames": rng.integers(1, 9, total),
    }
    write_index(folder / "tracklets.arrow", columns)
    names = [f"cam{number + 1}" for number in range(len(sizes))]
    shards = [f"{name}-{number}.tar" for name in names for number in range(SHARDS_PER_CAMERA)]
    info = {
        "format": "taudl-dataset",
        "version": 1,
        "digest": "f" * 64,
        "cameras": [{"name": name, "num_tracklets": size} for name, size in zip(names, sizes, strict=True)],
        "splits": {split: {"tracklets": total * (split == "train")} for split in ("train", "query", "gallery")},
        "shards": [{"name": name, "bytes": 1, "sha256": ""} for name in shards],
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("plan") / "dataset", SIZES)


def run(capsys, *words):
    code = cli.main(["plan", *map(str, words)])
    return code, *capsys.readouterr()


SETTINGS = ("--steps", 30, "--model", "small", "batch.images=32", "batch.cameras=2")


def forecast(capsys, dataset, *words):
    code, out, err = run(capsys, "--data", dataset, *SETTINGS, "--json", *words)
    assert code == 0, err
    return json.loads(out)


def steps(dataset):
    """The groups of every step of the run that SETTINGS describe, two workers' apart, and the index."""
    opened = open_dataset(dataset)
    plan = BatchPlan(opened, resolve({"batch": {"images": 32, "cameras": 2}, "steps": 30}))
    return [[plan.groups(step)[:1], plan.groups(step)[1:]] for step in range(30)], opened.training


def test_batch_and_reading_equal_counting(dataset, capsys):
    plan = forecast(capsys, dataset, "--workers", 2, "--steps-per-second", 2.5)
    batches, index = steps(dataset)
    rows = [np.concatenate([group.rows for run in runs for group in run]) for runs in batches]
    assert (plan["cameras"], plan["cameras_without_tracklets"], plan["cameras_per_step"]) == (4, 1, 2)
    assert (plan["tracklets_per_camera"], plan["max_workers"], plan["groups_per_step"]) == (4, 2, 2)
    assert plan["tracklets_per_step"] == np.mean([len(step) for step in rows])
    assert plan["images_per_step"] == 4 * plan["tracklets_per_step"]
    assert plan["images_per_worker"] == 16
    assert plan["bytes_per_step"] == np.mean([index.length[step].sum() for step in rows])
    assert plan["images_read_per_step"] == np.mean([index.num_frames[step].sum() for step in rows])
    assert plan["shards_per_step"] == np.mean([len(set(index.shard[step])) for step in rows])
    assert plan["images_per_second"] == 2.5 * plan["images_per_step"]
    assert plan["bytes_per_second"] == 2.5 * plan["bytes_per_step"]
    assert plan["epochs"]["most"] == ["cam4", 15.0] or plan["epochs"]["most"] == ["cam3", 15.0]
    assert plan["epochs"]["least"] == ["cam5", 5.0]


def test_cache_equals_counting(dataset, capsys):
    plan = forecast(capsys, dataset, "--workers", 2, "storage.ahead_steps=3")["cache"]
    batches, index = steps(dataset)
    of_rank = [sum(index.length[g.rows].sum() for runs in batches[:4] for g in runs[rank]) for rank in (0, 1)]
    assert plan["ahead_bytes_per_worker"] == max(of_rank) and plan["ahead_steps"] == 3
    ahead = np.concatenate([group.rows for runs in batches[:4] for run in runs for group in run])
    assert plan["shards_ahead"] == len(set(index.shard[ahead]))
    used = np.concatenate([group.rows for runs in batches for run in runs for group in run])
    assert plan["distinct_tracklets"] == len(set(used)) == 27 and plan["distinct_share"] == 1
    assert plan["uses_per_tracklet"] == pytest.approx(len(used) / 27)


def test_a_run_shorter_than_an_epoch_shows_a_part(dataset, capsys):
    plan = forecast(capsys, dataset, "--steps", 2)
    batches, _ = steps(dataset)
    used = np.concatenate([group.rows for runs in batches[:2] for run in runs for group in run])
    assert plan["cache"]["distinct_tracklets"] == len(set(used)) == 4 + 4 + 2 + 4  # one visit to each camera
    assert plan["cache"]["uses_per_tracklet"] == 1


def test_heads_and_traffic(dataset, capsys):
    plan = forecast(capsys, dataset, "--workers", 2)
    assert plan["head_rows"] == sum(plan["head_rows_per_worker"]) == 27
    assert plan["head_bytes_per_worker"] == max(plan["head_rows_per_worker"]) * 257 * 3 * 4
    traffic = plan["traffic"]["bytes_per_step"]
    embedding = 256 * 256 + 2 * 256  # the feature layer's parameters, over the five convolutions'
    convolutions = sum(9 * a * b + 2 * b for a, b in ((3, 32), (32, 64), (64, 128), (128, 256), (256, 256)))
    assert traffic["backbone"] == (convolutions + embedding) * 4
    assert traffic["means"] == 2 * 4 * 256 * 4  # the longest run of a worker has four tracklets
    assert traffic["heads"] == 0 and 0 <= traffic["features"] <= 2 * 16 * 256 * 4
    assert forecast(capsys, dataset)["traffic"]["bytes_per_second"] == 0  # one worker


def test_settings_that_change_heads_and_traffic(dataset, capsys):
    owned, sync, replicated, jcc, pctd, fp64 = (
        forecast(capsys, dataset, "--workers", 2, *words)
        for words in (
            (), ("model.batch_norm=sync",), ("parallel.heads=replicated",), ("--recipe", "jcc"), ("--recipe", "pctd"),
            ("--precision", "fp64"),
        )
    )  # fmt: skip

    def sent(plan, name):
        return plan["traffic"]["bytes_per_step"][name]

    assert sent(sync, "statistics") == 3 * sent(owned, "statistics")
    assert replicated["head_rows_per_worker"] == [27, 27] and replicated["head_images_busiest_over_mean"] == 1
    assert sent(replicated, "features") == 0 and sent(replicated, "heads") > 0
    assert jcc["head_rows_per_worker"] == [27, 0] and jcc["head_images_busiest_over_mean"] == 2
    assert sent(pctd, "means") == 0 and sent(pctd, "features") == sent(owned, "features")
    assert sent(fp64, "backbone") == 2 * sent(owned, "backbone")
    assert fp64["head_bytes_per_worker"] == 2 * owned["head_bytes_per_worker"]


def test_text(dataset, capsys):
    code, out, _ = run(capsys, "--data", dataset, "--workers", 2)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "batch", "workers", "reading", "pace", "cache", "epochs", "heads", "traffic",
    ]  # fmt: skip
    assert "4 of 4 cameras x 24 tracklets" in out and "27 rows" in out and "backbone 111 MB" in out
    assert "none: one worker" in run(capsys, "--data", dataset)[1]


@pytest.mark.parametrize("sizes", [[1], [0, 3], [1] * 30])
def test_odd_datasets(tmp_path, capsys, sizes):
    folder = write_dataset(tmp_path / "dataset", sizes)
    for words in ((), ("--json",)):
        code, out, _ = run(capsys, "--data", folder, "--steps", 1, *words)
        assert code == 0 and "nan" not in out.lower()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--workers", "1:9"), "groups_per_camera=3"),
        (("--steps-per-second", "0"), "--steps-per-second 0.0: expected a number above 0"),
        (("--steps-per-second", "nan"), "expected a number above 0"),
        (("batch.cameras=9",), "4 cameras"),
    ],
)
def test_wrong_usage(dataset, capsys, words, expected):
    code, out, err = run(capsys, "--data", dataset, *words)
    assert code == 2 and not out and expected in err


def test_dataset_is_needed(capsys):
    code, _, err = run(capsys)
    assert code == 2 and "--data" in err


def test_nothing_to_train_on(tmp_path, capsys):
    code, _, err = run(capsys, "--data", write_dataset(tmp_path / "dataset", [0, 0]))
    assert code == 1 and "no training tracklets" in err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (999_999, "1 MB"), (5e13, "50 TB"), (2e18, "2e+03 PB")],
)
def test_sizes(size, text):
    assert _bytes(size) == text
