"""Initial weights from files: torchvision's names, our own files, and every way a file can be wrong."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from taudl_dist.config import ModelConfig
from taudl_dist.errors import UserError
from taudl_dist.model import build_model, save_model


def built(weights: Path | str, name: str = "mobilenet_v2", dim: int = 16):
    return build_model(ModelConfig(name=name, weights=str(weights), feature_dim=dim), seed=0)


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, torch.Tensor]:
    return torchvision.models.mobilenet_v2(weights=None).state_dict()


def test_torchvisions_state_dict_as_safetensors_in_half_precision(
    mobilenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {name: value.half() for name, value in mobilenet.items() if not name.endswith("num_batches_tracked")}
    save_file(half, tmp_path / "half.safetensors")
    backbone = built(tmp_path / "half.safetensors").backbone.state_dict()
    assert backbone["features.0.0.weight"].dtype == torch.float32
    assert all(torch.equal(backbone[name], half[name].float()) for name in half if not name.startswith("classifier."))


def test_torchvisions_state_dict_as_pth(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "a.pth")
    backbone = built(tmp_path / "a.pth", name="resnet18").backbone.state_dict()
    assert all(torch.equal(backbone[name], state[name]) for name in backbone)


def test_a_trained_network_of_ours_brings_its_feature_layer(tmp_path: Path) -> None:
    trained = build_model(ModelConfig(name="small", feature_dim=16), seed=9)
    save_model(trained, tmp_path, {})
    again = built(tmp_path / "model.safetensors", name="small").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.state_dict().items())
    with pytest.raises(
        UserError, match=r"embedding\S+ \(16, 256\)? ?.*instead of|embedding\S+ \(16,\) instead of \(32,\)"
    ):
        built(tmp_path / "model.safetensors", name="small", dim=32)


def test_another_architecture_is_refused_with_the_keys_that_differ(
    mobilenet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(mobilenet, tmp_path / "mobilenet.safetensors")
    with pytest.raises(
        UserError, match=r"do not fit resnet18: .*missing, first bn1\.bias; .*unknown, first features.*--model"
    ):
        built(tmp_path / "mobilenet.safetensors", name="resnet18")


def test_missing_unknown_and_wrong_tensors_are_named(mobilenet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = dict(mobilenet)
    del state["features.3.conv.2.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as caught:
        built(tmp_path / "odd.safetensors")
    for fact in (
        "features.3.conv.2.weight",
        "extra.weight",
        "features.0.0.weight (32, 1, 3, 3) instead of (32, 3, 3, 3)",
    ):
        assert fact in str(caught.value)


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("content", ["harmful", "garbage", "truncated", "list"])
def test_files_that_are_no_state_dict(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ("a.safetensors" if content == "truncated" else "a.pth")
    if content == "truncated":
        save_file({"w": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "garbage":
        path.write_bytes(b"not a file of torch")
    else:
        torch.save(Harmful() if content == "harmful" else [torch.zeros(1)], path)
    with pytest.raises(UserError, match=r"a\.(pth|safetensors): (not a readable state dict|found list)"):
        built(path)
    assert "must never run" not in capsys.readouterr().out


def test_a_missing_file() -> None:
    with pytest.raises(UserError, match="no such file"):
        built("nowhere.safetensors")


def test_a_download_that_fails_names_the_way_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"no network.*--weights FILE"):
        built("imagenet")
    with pytest.raises(UserError, match="no ImageNet weights for small"):
        built("imagenet", name="small")


def test_a_download_is_checked_and_not_unpickled(
    mobilenet: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def online(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options, url=url)
        return mobilenet

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", online)
    backbone = built("imagenet").backbone.state_dict()
    assert all(torch.equal(backbone[name], mobilenet[name]) for name in backbone)
    assert "mobilenet_v2" in str(asked["url"])
    assert asked["check_hash"]
    assert asked["weights_only"]


def test_a_download_that_is_damaged_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", damaged)
    with pytest.raises(UserError, match="invalid hash value"):
        built("imagenet")
