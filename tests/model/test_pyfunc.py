"""What MLflow calls gives the network's own features, in any number of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taudl_dist.config import ModelConfig
from taudl_dist.model import build_model, pyfunc, save_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_features_of_the_network(tmp_path, monkeypatch, dtype, count):
    monkeypatch.setattr(pyfunc, "BATCH_IMAGES", 3)  # less, exactly, and more than one batch
    model = build_model(ModelConfig(name="small", feature_dim=8), seed=0).to(dtype).eval()
    model.image_size = (32, 16)
    save_model(model, tmp_path, {})
    images = np.random.default_rng(0).normal(size=(count, 3, 32, 16)).astype(np.float32)
    features = pyfunc._load_pyfunc(str(tmp_path)).predict(images)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).to(dtype)).float().numpy()
    assert (features.dtype, features.shape) == (np.float32, (count, 8))
    np.testing.assert_allclose(features, expected, atol=1e-6 * np.abs(expected).max())
