"""`taudl export` as a user types it."""

from __future__ import annotations

import json

import pytest

from taudl_dist.cli import main
from taudl_dist.config import ModelConfig
from taudl_dist.model import build_model, export, save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = build_model(ModelConfig(name="small", feature_dim=8), seed=0)
    model.image_size = (32, 16)
    save_model(model, folder, extra={"step": 5, "dataset_digest": "d" * 64})
    return folder


def words(run, out, *more):
    return ["export", "--model", str(run), "--out", str(out), *more]


def test_json_says_what_the_file_says(run, tmp_path, capsys):
    out = tmp_path / "new" / "model.ONNX"
    assert main(words(run, out, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["largest_difference"] <= export.TOLERANCE * printed["largest_feature"]
    assert printed["num_bytes"] == out.stat().st_size
    facts = export.read_export(out, kind="onnx")[1]
    assert facts.items() <= printed.items()
    assert (facts["step"], facts["dataset_digest"], facts["height"]) == (5, "d" * 64, 32)
    assert [path.name for path in out.parent.iterdir()] == ["model.ONNX"]


def test_text_and_overwrite(run, tmp_path, capsys):
    out = tmp_path / "model.pt2"
    out.write_text("mine")
    assert main(words(run, out)) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(words(run, out, "--overwrite")) == 0
    assert "images 32 x 16 -> 8 numbers; largest difference from torch" in capsys.readouterr().out


def test_a_refused_file_is_not_left_behind(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    assert main(words(run, tmp_path / "model.pt2")) == 1
    assert "Nothing was kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


WRONG = [
    ("model.tflite", 2, "expected .onnx or .pt2"),
    ("model", 2, "expected .onnx or .pt2"),
    ("folder.onnx", 1, "found a folder"),
]


@pytest.mark.parametrize("case", WRONG, ids=[row[0] for row in WRONG])
def test_wrong_names(run, tmp_path, capsys, case):
    name, code, message = case
    (tmp_path / "folder.onnx").mkdir()
    assert main(words(run, tmp_path / name)) == code
    assert message in capsys.readouterr().err


def test_no_such_run(tmp_path, capsys):
    assert main(words(tmp_path / "nowhere", tmp_path / "m.onnx")) == 1
    assert "no model.safetensors there" in capsys.readouterr().err


REGISTRY = [
    ([], 2, "nothing to do: give --out FILE.onnx, or --register NAME"),
    (["--out", "x.onnx", "--alias", "champion"], 2, "add --register NAME"),
    (["--register", "reid", "--overwrite"], 2, "--overwrite has no meaning without --out"),
    (["--register", "reid"], 1, "is not in MLflow, and only a tracked run can be registered"),
]


@pytest.mark.parametrize(("flags", "code", "message"), REGISTRY)
def test_what_cannot_be_registered(run, flags, code, message, capsys):
    assert main(["export", "--model", str(run), *flags]) == code
    assert message in capsys.readouterr().err
