"""The network: the paper's feature on every backbone, initial weights from the seed alone."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from taudl_dist.config import ModelConfig
from taudl_dist.model import build_model, feature_dim
from taudl_dist.model.backbone import BACKBONES
from taudl_dist.model.batch_norm import batch_norm_layers


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "resnet50" else name for name in BACKBONES]
)
def test_every_backbone_gives_features_and_gradients(name: str) -> None:
    config = ModelConfig(name=name)
    model = build_model(config, seed=0).train()
    features = model(torch.randn(4, 3, 64, 32), [2, 2])
    assert features.shape == (4, feature_dim(config))
    assert features.min() == 0  # ReLU
    features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) for layer in model.modules())


def test_the_papers_feature_has_2048_numbers() -> None:
    assert feature_dim(ModelConfig()) == 2048
    assert feature_dim(ModelConfig(name="small", feature_dim=7)) == 7


def test_initial_weights_follow_the_released_code() -> None:
    model = build_model(ModelConfig(name="small", feature_dim=512), seed=0)
    assert model.embedding.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert model.embedding.bias is None  # batch norm follows
    assert torch.equal(model.embedding_norm.weight, torch.ones(512))
    assert torch.equal(model.embedding_norm.bias, torch.zeros(512))


def test_weights_depend_on_the_seed_alone_and_leave_the_callers_generator_alone() -> None:
    config = ModelConfig(name="small", feature_dim=8)
    torch.manual_seed(5)
    first = build_model(config, seed=1).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    second, other = build_model(config, seed=1).state_dict(), build_model(config, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    build_model(config, seed=2**63 - 1)


def test_groups_do_not_see_each_other() -> None:
    model = build_model(ModelConfig(name="small", feature_dim=8), seed=0).double().train()
    images = torch.randn(7, 3, 32, 16, dtype=torch.float64)
    together = model(images, (4, 3))
    apart = torch.cat([model(images[:4], (4,)), model(images[4:], (3,))])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    joint = model(images, (7,))
    assert (together - joint).abs().max() > 1e-3


def test_eval_mode_ignores_groups() -> None:
    model = build_model(ModelConfig(name="small", feature_dim=8), seed=0).eval()
    images = torch.randn(5, 3, 32, 16)
    torch.testing.assert_close(model(images, (5,))[2:3], model(images[2:3], (1,)), rtol=1e-5, atol=1e-6)
    assert torch.equal(model(images), model(images, (2, 2)))  # sizes of another batch


def test_group_sizes_must_sum_to_the_batch() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) sum to 4, but the batch has 5"):
        build_model(ModelConfig(name="small"), seed=0)(torch.zeros(5, 3, 32, 16), (2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["group", "sync"])
def test_the_compiler_takes_it_as_one_graph(batch_norm: str) -> None:
    model = build_model(ModelConfig(name="small", feature_dim=8, batch_norm=batch_norm), seed=0).double().train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(6, 3, 32, 16, dtype=torch.float64)
    for sizes in ((4, 2), (3, 3)):
        torch.testing.assert_close(compiled(images, sizes), model(images, sizes))


@pytest.mark.parametrize("batch_norm", ["group", "sync"])
def test_bfloat16_autocast_keeps_statistics_and_gradients_in_float32(batch_norm: str) -> None:
    config = ModelConfig(name="small", feature_dim=8, batch_norm=batch_norm)
    model, exact = build_model(config, seed=1).train(), build_model(config, seed=1).double().train()
    images = torch.randn(16, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        features = model(images, (8, 8))
    expected = exact(images.double(), (8, 8))
    assert (features.double() - expected).norm() < 0.05 * expected.norm()
    features.float().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(layer.pending.dtype == torch.float32 for layer in batch_norm_layers(model))


def test_eval_is_torchvisions_network_then_linear_norm_and_relu() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    model = build_model(ModelConfig(name="resnet18", feature_dim=16), seed=0).eval()
    model.backbone.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 64, 32)
    layer = model.embedding(theirs(images))  # running statistics are still 0 and 1
    torch.testing.assert_close(model(images), (layer / math.sqrt(1 + 1e-5)).relu(), rtol=1e-5, atol=1e-6)
