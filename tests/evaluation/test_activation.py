"""Activation maps: places add up to the feature where the network is linear, and the picture shows what it should."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from taudl_dist.config import ModelConfig
from taudl_dist.errors import UserError
from taudl_dist.evaluation import figures
from taudl_dist.evaluation.activation import ActivationMap, activation_maps, contributions
from taudl_dist.model import build_model, load_model


def model_of(name, size):
    model = build_model(ModelConfig(name=name, feature_dim=8), seed=3).eval()
    model.image_size = size
    return model


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v2"])
def test_places_add_up_to_the_squared_length(name):
    """Average pooling, a linear layer, batch norm without shift (as at the start) and ReLU: f . W a summed over places is |f|^2."""
    model = model_of(name, (64, 64))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model(pixels)
    places = contributions(model, pixels)
    assert places.ndim == 3
    assert places.shape[1] * places.shape[2] > 1
    torch.testing.assert_close(places.sum((1, 2)), features.square().sum(1), rtol=1e-3, atol=1e-6)


def test_against_leaving_a_place_out():
    """The gradient is what a small change of one place changes."""
    model = model_of("small", (32, 16)).double()
    pixels = torch.randn(1, 3, 32, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    body, head = model.backbone[:-2], model.backbone[-2:]
    with torch.no_grad():
        last = body(pixels)

        def half_square(weight):
            pooled = head(last * weight)
            return model.embedding_norm(model.embedding(pooled)).relu().square().sum().item() / 2

        for row in range(last.shape[2]):
            weight = torch.ones(1, 1, *last.shape[2:], dtype=torch.float64)
            weight[0, 0, row, 0] += 1e-5
            slope = (half_square(weight) - half_square(2 - weight)) / 2e-5
            assert contributions(model, pixels)[0, row, 0].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_maps_of_images(run, picture):
    images = [(f"cam{number}", picture((200, 40, 40), brightness=1, seed=number)) for number in range(3)]
    model = load_model(run)
    maps = activation_maps(model, images)
    assert [entry.caption for entry in maps] == ["cam0", "cam1", "cam2"]
    for entry in maps:
        assert entry.share.min() >= 0
        assert entry.share.max() == pytest.approx(1)
    again = activation_maps(model, images)
    assert all((one.share == other.share).all() for one, other in zip(maps, again))
    assert figures.activation_sheet(maps) == figures.activation_sheet(again)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_that_does_not_decode(run, picture):
    with pytest.raises(UserError, match="cam7"):
        activation_maps(load_model(run), [("cam1", picture((1, 2, 3), brightness=1, seed=0)), ("cam7", b"no image")])


def test_sheet_is_red_where_the_feature_comes_from_and_blue_elsewhere():
    grey = io.BytesIO()
    Image.new("RGB", (64, 128), (128, 128, 128)).save(grey, "PNG")
    share = np.zeros((8, 4), np.float32)
    share[:3] = 1
    entry = ActivationMap(caption="a very long name of a camera indeed", jpeg=grey.getvalue(), share=share)
    sheet = np.asarray(Image.open(io.BytesIO(figures.activation_sheet([entry] * 9))), np.int64)
    left, top = figures.MARGIN, figures.MARGIN
    assert sheet[top + 5, left + 5].tolist() == [128, 128, 128]
    below = top + figures.IMAGE_HEIGHT + figures.GAP
    high, low = sheet[below + 10, left + 30], sheet[below + 118, left + 30]
    assert high[0] > high[2]
    assert low[2] > low[0]
    row = 2 * figures.IMAGE_HEIGHT + 2 * figures.GAP + figures.CAPTION + figures.MARGIN
    assert sheet.shape[0] == pytest.approx(figures.MARGIN + 2 * row, abs=2 * figures.MARGIN)
    caption = sheet[below + figures.IMAGE_HEIGHT + 1 : below + figures.IMAGE_HEIGHT + figures.CAPTION]
    gaps = [left + figures.IMAGE_WIDTH + number * (figures.IMAGE_WIDTH + figures.MARGIN) for number in range(8)]
    assert all((caption[:, gap + figures.MARGIN // 2] == 255).all() for gap in gaps)  # no caption runs into the next
