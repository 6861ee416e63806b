"""The commands on a dataset in an object store."""

from __future__ import annotations

import json

import pytest

from taudl_dist.cli import main
from taudl_dist.dataset import storage
from tests.object_store import ObjectStore
from tests.training.conftest import FLAGS, tiny_dataset


@pytest.fixture
def data(object_store: ObjectStore, tmp_path) -> tuple[str, str]:
    """A dataset on the disk, and its copy's URI."""
    folder = tiny_dataset(tmp_path / "set")
    return str(folder), object_store.upload(folder, "commands/set")


def train(data, out, *more):
    return main(["train", "--data", data, "--out", str(out), *FLAGS, "--steps", "4", *more])


def test_training_from_a_store_gives_the_same_weights(data, tmp_path):
    local, uri = data
    assert train(local, tmp_path / "a") == train(uri, tmp_path / "b") == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]
    run = json.loads((tmp_path / "b" / "run.json").read_text())
    assert run["dataset"]["path"] == uri
    assert train(local, tmp_path / "b", "--resume", "--steps", "5") == 0  # where the data lies changes nothing


def test_a_store_that_fails_ends_training_with_one_line(data, tmp_path, object_store, monkeypatch, capsys):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)
    object_store.fail("InternalError", suffix=".tar")
    assert train(data[1], tmp_path / "run", "--storage.attempts", "2") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "s3://" in line]
    assert "failed in 2 attempts" in line and "storage.attempts" in line


@pytest.mark.parametrize(("uri", "code"), [("s3://a:b@bucket/x", 2), ("ftp://bucket/x", 2)])
def test_a_uri_that_is_refused_is_wrong_usage(tmp_path, capsys, uri, code):
    assert train(uri, tmp_path / "run") == code
    assert "a:b" not in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_commands_that_read_say_the_same(data, capsys):
    local, uri = data
    for words in (["info", "--json"], ["plan", "--json", *FLAGS], ["validate", "--json"]):
        printed = []
        for place in (local, uri):
            assert main([words[0], "--data", place, *words[1:]]) == 0
            printed.append(json.loads(capsys.readouterr().out))
        assert printed[0] == printed[1]
