from __future__ import annotations

import json

import numpy as np
import pytest

from taudl_dist import cli
from taudl_dist.dataset import open_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_dataset):
    return write_dataset(tmp_path_factory.mktemp("plan") / "dataset", [9, 4, 2, 12])


def run(capsys, *words):
    code = cli.main(["plan", *map(str, words)])
    return code, *capsys.readouterr()


def test_numbers(dataset, capsys):
    words = (
        "--data",
        dataset,
        "--workers",
        2,
        "--steps",
        30,
        "--model",
        "small",
        "batch.images=32",
        "batch.cameras=2",
        "--json",
    )
    code, out, _ = run(capsys, *words)
    assert code == 0
    plan = json.loads(out)
    assert (plan["cameras"], plan["cameras_per_step"], plan["tracklets_per_camera"], plan["max_workers"]) == (
        4,
        2,
        4,
        2,
    )
    assert plan["images_per_step"] == 4 * plan["tracklets_per_step"] <= 32
    assert plan["epochs"]["most"] == ["cam2", 15.0]  # 30 * 2 / 4 visits of all four tracklets
    assert plan["epochs"]["least"] == ["cam4", 5.0]
    lengths = np.asarray(open_dataset(dataset).training.length)
    assert lengths.min() * 4 <= plan["bytes_per_step"] <= lengths.max() * 8
    assert plan["head_rows"] == sum(plan["head_rows_per_worker"]) == 27
    assert plan["head_bytes_per_worker"] == max(plan["head_rows_per_worker"]) * 257 * 3 * 4


def test_text(dataset, capsys):
    code, out, _ = run(capsys, "--data", dataset, "--workers", 1)
    assert code == 0 and "4 of 4 cameras x 24 tracklets" in out and "27 rows" in out


def test_too_many_workers(dataset, capsys):
    code, out, err = run(capsys, "--data", dataset, "--workers", "1:9")
    assert code == 2 and not out and "groups_per_camera=3" in err


def test_dataset_is_needed(capsys):
    code, _, err = run(capsys)
    assert code == 2 and "--data" in err
