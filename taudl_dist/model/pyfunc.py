"""A model folder as MLflow's python function: `mlflow.pyfunc.load_model(URI).predict(images)`.

MLflow calls `_load_pyfunc` with the folder; weights come from model.safetensors, so nothing is unpickled. It needs torch,
torchvision, safetensors and numpy, and no installed taudl: the package travels with the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BATCH_IMAGES = 128
"""Images that go through the network at a time."""


class Features:
    """Images -> features, by the network of a folder."""

    def __init__(self, folder: str | Path) -> None:
        from taudl_dist.model.storage import load_model

        self.model = load_model(folder)

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002 - MLflow passes it
        """Features (B, D) float32 of images (B, 3, height, width) float32, scaled to [0, 1] and normalised by mean and std."""
        import torch

        dtype = next(self.model.parameters()).dtype
        with torch.inference_mode():
            parts = [self.model(part.to(dtype)) for part in torch.as_tensor(images).split(BATCH_IMAGES)]
            return torch.cat(parts).float().numpy()


def _load_pyfunc(path: str) -> Features:
    return Features(path)
