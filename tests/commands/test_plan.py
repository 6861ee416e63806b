"""`taudl plan`: what it prints, odd datasets, messages and exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from taudl_dist import cli
from taudl_dist.commands.plan import _bytes
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


def test_json(dataset, capsys):
    settings = ("--steps", 30, "--model", "small", "batch.images=32", "batch.cameras=2", "--steps-per-second", 2)
    code, out, _ = run(capsys, "--data", dataset, "--workers", 2, *settings, "--json")
    plan = json.loads(out)
    assert code == 0 and (plan["workers"], plan["steps"], plan["cameras"]) == (2, 30, 4)
    assert plan["images_per_second"] == 2 * plan["images_per_step"] <= 64 and plan["head_rows"] == 27


def test_text(dataset, capsys):
    code, out, _ = run(capsys, "--data", dataset, "--workers", 2)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "batch", "workers", "reading", "pace", "cache", "epochs", "heads", "traffic",
    ]  # fmt: skip
    assert "4 of 4 cameras x 48 tracklets" in out and "27 rows" in out and "backbone 111 MB" in out
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
