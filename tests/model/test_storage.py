"""A network on disk: it comes back as it was, and broken folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from taudl_dist.config import ModelConfig
from taudl_dist.errors import UserError
from taudl_dist.model import ReidModel, build_model, load_model, save_model


def trained(dtype: torch.dtype = torch.float32) -> ReidModel:
    model = build_model(ModelConfig(name="small", feature_dim=8, batch_norm="sync"), seed=4).to(dtype)
    model.image_size = (64, 32)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(dtype).eval()
    save_model(model, tmp_path, {"step": 12, "dataset_digest": "abc"})
    images = torch.randn(2, 3, 64, 32, dtype=dtype)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        again = load_model(path)
        assert not again.training
        assert (again.image_size, again.batch_norm, again.feature_dim) == ((64, 32), "sync", 8)
        assert torch.equal(again(images, (2,)), model(images, (2,)))
    facts = json.loads((tmp_path / "model.json").read_text())
    assert (facts["step"], facts["dataset_digest"], facts["name"]) == (12, "abc", "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # whoever may read one may read the other


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(trained(), tmp_path, {"step": 1})

    def full(path: Path, _: bytes) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(trained(), tmp_path, {"step": 2})
    assert load_model(tmp_path).name == "small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no model.json"),
        ("{", "not valid JSON"),
        ("[]", "expected format taudl-model"),
        ('{"format": "taudl-model", "version": 99}', "expected format taudl-model version 1"),
        ('{"feature_dim": "8"}', "feature_dim is '8', expected a int"),
        ('{"name": "resnet900"}', "'resnet900' .* is not a known network"),
        ('{"name": "resnet18"}', "do not fit resnet18"),
    ],
)
def test_a_broken_description_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    save_model(trained(), tmp_path, {})
    path = tmp_path / "model.json"
    if text is None:
        path.unlink()
    elif text.startswith('{"format') or not text.startswith('{"'):
        path.write_text(text)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads(text)}))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_a_weights_file_of_any_name_beside_its_description(tmp_path: Path) -> None:
    save_model(trained(), tmp_path, {})
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch9.safetensors")
    assert torch.equal(load_model(tmp_path / "epoch9.safetensors").embedding.weight, trained().embedding.weight)
    with pytest.raises(UserError, match=r"no model\.json with model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk" * 100], ids=["empty", "junk"])
def test_damaged_weights_are_named(content: bytes, tmp_path: Path) -> None:
    save_model(trained(), tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable state dict"):
        load_model(tmp_path)


def test_a_size_of_no_pixels_is_refused(tmp_path: Path) -> None:
    save_model(trained(), tmp_path, {"height": 0})
    with pytest.raises(UserError, match="0 x 32, expected pixels"):
        load_model(tmp_path)
