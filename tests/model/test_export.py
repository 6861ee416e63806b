"""Exported networks give torch's features at any batch size, say how to prepare images, and are refused if they do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from taudl_dist.config import ModelConfig
from taudl_dist.errors import UserError
from taudl_dist.model import IMAGE_MEAN, IMAGE_STD, ReidModel, build_model, export
from taudl_dist.model.batch_norm import batch_norm_layers

SIZE = (64, 32)


def network(name: str = "small", *, seed: int = 0) -> ReidModel:
    """Batch norm with statistics unlike those of any batch, so that a network exported in training mode would differ."""
    model = build_model(ModelConfig(name=name, feature_dim=16), seed=seed)
    model.image_size = SIZE
    for number, layer in enumerate(batch_norm_layers(model)):
        generator = torch.Generator().manual_seed(number)
        layer.running_mean.normal_(generator=generator)
        layer.running_var.uniform_(0.5, 2.0, generator=generator)
    return model


FACTS = export.export_facts(network(), step=7, recipe="best")


@pytest.fixture(scope="module", params=export.FORMATS)
def written(request, tmp_path_factory):
    """Format, network, file, and what the comparison said."""
    model, path = network(), tmp_path_factory.mktemp("export") / "file"
    return request.param, model, path, export.write_export(model, path, kind=request.param, facts=FACTS)


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_any_batch_size_gives_the_features_of_torch(written, size):
    kind, model, path, _ = written
    images = torch.randn(size, 3, *SIZE, generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        expected = model(images).numpy()
    found = export.read_export(path, kind=kind)[0](images.numpy())
    assert found.shape == (size, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_a_feature_does_not_depend_on_the_other_images(written):
    exported = export.read_export(written[2], kind=written[0])[0]
    images = np.random.default_rng(0).normal(size=(4, 3, *SIZE)).astype(np.float32)
    together = exported(images)
    alone = np.concatenate([exported(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5 * together.max())


def test_the_metadata_tells_how_to_prepare_an_image(written):
    facts = export.read_export(written[2], kind=written[0])[1]
    assert (facts["height"], facts["width"]) == SIZE
    assert (facts["mean"], facts["std"]) == (list(IMAGE_MEAN), list(IMAGE_STD))
    assert (facts["format"], facts["version"], facts["step"], facts["recipe"]) == ("taudl-export", 1, 7, "best")
    assert json.loads(json.dumps(facts)) == facts


def test_the_comparison_is_printed_and_small(written):
    compared = written[3]
    assert 0 <= compared["largest_difference"] <= 1e-5 * compared["largest_feature"]


def test_the_same_weights_give_the_same_bytes_without_paths(written, tmp_path):
    kind, _, path, _ = written
    export.write_export(network(), tmp_path / "again", kind=kind, facts=FACTS)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert b"backbone.py" not in path.read_bytes()


def test_weights_of_fp64_are_exported_as_fp32(tmp_path):
    export.write_export(network().double(), tmp_path / "m", kind="pt2", facts={})
    assert export.read_export(tmp_path / "m", kind="pt2")[0](np.zeros((1, 3, *SIZE), np.float32)).dtype == np.float32


WRONG = [
    (lambda features: features + 1.0, "another number"),
    (lambda features: features * np.nan, "not a number"),
    (lambda features: features * (1 + 1e-3), "a thousandth off"),
]


@pytest.mark.parametrize("change", [row[0] for row in WRONG], ids=[row[1] for row in WRONG])
def test_other_features_are_refused(change, tmp_path, monkeypatch):
    model = network()

    def read(path, *, kind):  # noqa: ARG001
        return lambda images: change(model(torch.from_numpy(images)).detach().numpy()), {}

    monkeypatch.setattr(export, "read_export", read)
    with pytest.raises(UserError, match="differ from torch's by"):
        export.write_export(model, tmp_path / "m", kind="pt2", facts={})


def test_a_diverged_network_is_refused(tmp_path):
    model = network()
    next(batch_norm_layers(model)).running_mean.fill_(float("nan"))
    with pytest.raises(UserError, match="differ from torch's by nan"):
        export.write_export(model, tmp_path / "m", kind="pt2", facts={})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("mobilenet_v2", "onnx"), ("resnet18", "pt2")])
def test_other_backbones(name, kind, tmp_path):
    export.write_export(network(name), tmp_path / "m", kind=kind, facts={})
