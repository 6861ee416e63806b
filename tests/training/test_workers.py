"""The number of workers changes nothing: real gloo groups, as torchrun starts them, against one process."""

import json
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.commands.train import parse_config
from taudl_dist.training import train

from .conftest import FLAGS, assert_equal, rows, state, tiny_dataset

pytestmark = pytest.mark.slow

FP64 = [
    "--precision", "fp64", "--steps", "20", "--batch.groups-per-camera", "2", "--optim.clip-norm", "1",
    "--batch.images", "48", "--batch.frames", "4",  # batch norm over fewer images magnifies rounding, and Adam does so again
    "--optim.lr", "1e-4",
]  # fmt: skip


def assert_close(run: Path, expected: Path, tolerance: float) -> None:
    """Every tensor of the final state within `tolerance` of its norm, and every loss."""
    found, wanted = state(run), state(expected)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        norm, error = tensor.double().norm(), (found[key].double() - tensor.double()).norm()
        if norm < 1e-9:  # what batch norm cancels has no gradient but rounding
            assert error < 1e-9, key
            continue
        allowed = tolerance * (100 if ":" in key else 1)  # moments are sums of gradients that partly cancel
        assert error <= allowed * norm, (key, error / norm)
    for row, other in zip(rows(run), rows(expected), strict=True):
        for name in ("loss", "pctd", "ccta"):
            assert row[name] == pytest.approx(other[name], rel=1e-10)


def _group(train_group: Any, size: int, words: list[Any], *, code: int = 0) -> str:
    results = train_group(size, words)
    text = "\n".join(result.stderr for result in results)
    assert [result.returncode for result in results] == [code] * size, text
    assert "Traceback" not in text
    assert "Warning" not in text
    return text


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven cameras, so that ranks hold different numbers of images and of labels."""
    return tiny_dataset(tmp_path_factory.mktemp("workers") / "dataset", (9, 3, 6))


@pytest.mark.parametrize(("size", "recipe"), [(2, "official-code"), (2, "jcc"), (3, "paper")])
def test_any_number_of_workers_trains_the_same_model(
    data: Path, tmp_path: Path, train_group: Any, size: int, recipe: str
) -> None:
    words = ["--data", str(data), *FLAGS, *FP64, "--recipe", recipe]
    expected = train(parse_config([*words, "--out", str(tmp_path / "one")]))
    _group(train_group, size, [*words, "--out", tmp_path / "many"])
    assert_close(tmp_path / "many", expected, 1e-12)


def test_workers_come_and_go(data: Path, tmp_path: Path, train_group: Any) -> None:
    """Two workers, then one, then three, each going on from the other's checkpoint."""
    words = ["--data", str(data), *FLAGS, *FP64, "--model.batch-norm", "sync"]
    expected = train(parse_config([*words, "--out", str(tmp_path / "one")]))
    run = tmp_path / "many"
    _group(train_group, 2, [*words, "--out", run, "--stop-at", 7])
    _group(train_group, 1, ["--out", run, "--resume", "--stop-at", 13])
    _group(train_group, 3, ["--out", run, "--resume"])
    assert_close(run, expected, 1e-12)
    assert [(a["world_size"], a["from_step"]) for a in json.loads((run / "run.json").read_text())["attempts"]] == [
        (2, 0),
        (1, 7),
        (3, 13),
    ]


def test_three_workers_resume_bit_equal(data: Path, tmp_path: Path, train_group: Any) -> None:
    words = ["--data", data, *FLAGS, "--batch.groups-per-camera", "2"]
    _group(train_group, 3, [*words, "--out", tmp_path / "whole"])
    _group(train_group, 3, [*words, "--out", tmp_path / "parts", "--stop-at", 5])
    _group(train_group, 3, ["--out", tmp_path / "parts", "--resume"])
    assert_equal(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_too_many_workers_are_refused_with_the_way_out(data: Path, tmp_path: Path, train_group: Any) -> None:
    text = _group(train_group, 4, ["--data", data, *FLAGS, "--out", tmp_path / "run"], code=2)
    assert "batch.groups_per_camera=2" in text
    assert not (tmp_path / "run").exists()
