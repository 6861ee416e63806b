"""The task-shared network (Sect. 3.2, 4): a backbone, then one fully connected layer with batch norm and ReLU, the feature x.

The paper's is ResNet-50 with a 2,048-D feature. Initialisation follows the released code: He-normal for the feature layer, and
whatever the backbone's file or torchvision gives below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from taudl_dist.config import ModelConfig
from taudl_dist.model.batch_norm import BatchLayout, convert_batch_norm, set_group_sizes
from taudl_dist.model.weights import load_backbone

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""What the images were normalised with: ImageNet's mean and standard deviation of RGB in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """How a backbone is made, what it gives, and the feature length that suits it."""

    build: Callable[[], nn.Module]
    """Without classifier: images -> (B, num_pooled)."""
    num_pooled: int
    feature_dim: int


def _resnet(name: str) -> nn.Module:
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    return network


def _mobilenet() -> nn.Module:
    network = torchvision.models.mobilenet_v2(weights=None)
    network.classifier = nn.Identity()
    return network


def _small() -> nn.Module:
    """Five convolutions for 128x64 images on a CPU; a million parameters."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2), (256, 256, 1)):
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


BACKBONES = {
    "resnet50": Backbone(build=lambda: _resnet("resnet50"), num_pooled=2048, feature_dim=2048),
    "resnet18": Backbone(build=lambda: _resnet("resnet18"), num_pooled=512, feature_dim=512),
    "mobilenet_v2": Backbone(build=_mobilenet, num_pooled=1280, feature_dim=1024),
    "small": Backbone(build=_small, num_pooled=256, feature_dim=256),
}


class ReidModel(nn.Module):
    """Images to features.

    Args:
        name: a key of BACKBONES.
        feature_dim: D.
        batch_norm: `group` or `sync`.
    """

    def __init__(self, name: str, *, feature_dim: int, batch_norm: str = "group") -> None:
        super().__init__()
        self.name, self.feature_dim, self.batch_norm = name, feature_dim, batch_norm
        self.image_size = (256, 128)
        """Height and width of the images it was trained on."""
        self.layout = BatchLayout(mode=batch_norm)
        self.backbone = BACKBONES[name].build()
        # no bias: batch norm takes it away again, so its gradient is rounding alone, of which Adam would make full steps
        self.embedding = nn.Linear(BACKBONES[name].num_pooled, feature_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(feature_dim)
        nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out")
        convert_batch_norm(self, self.layout)

    def forward(self, images: torch.Tensor, group_sizes: Sequence[int] = ()) -> torch.Tensor:
        """Features (B, D), not negative, of images (B, 3, H, W); `group_sizes` are the batch norm groups, unused in eval mode."""
        if self.training:
            set_group_sizes(self.layout, group_sizes, len(images))
        return self.embedding_norm(self.embedding(self.backbone(images))).relu()


def feature_dim(config: ModelConfig) -> int:
    """D: as configured, or what suits the backbone."""
    return config.feature_dim or BACKBONES[config.name].feature_dim


def build_model(config: ModelConfig, *, seed: int) -> ReidModel:
    """The network at the start of training: random weights from the seed, the backbone's from `config.weights` if given.

    Raises:
        UserError: weights that are missing, damaged or of another architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed a GPU's generator too
        model = ReidModel(config.name, feature_dim=feature_dim(config), batch_norm=config.batch_norm)
    if config.weights:
        load_backbone(model, config.weights)
    return model
