"""What a model must beat: a colour histogram, and the same network as it was before training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from taudl_dist.errors import UserError

if TYPE_CHECKING:
    from taudl_dist.model import ReidModel

STRIPES = 6
"""Horizontal stripes of a person, from head to feet, each with a histogram of its own."""
BINS = (8, 4, 4)
"""Bins of hue, saturation and value."""

_HEIGHT, _WIDTH = 96, 48


def colour_histogram(jpegs: list[bytes]) -> np.ndarray:
    """Joint HSV histograms of six stripes (n, 768) float32.

    Square roots of shares: the Euclidean distance of two images is then their Hellinger distance.
    """
    from taudl_dist.batches.pipeline import CorruptImageError

    features = np.empty((len(jpegs), STRIPES * int(np.prod(BINS))), np.float32)
    for position, jpeg in enumerate(jpegs):
        try:
            features[position] = _histogram(jpeg)
        except OSError as error:  # Pillow's errors are among them
            raise CorruptImageError(position, str(error)) from None
    return features


def untrained_model(run: Path, *, device: str = "cpu") -> ReidModel:
    """The network of a run folder before its first step: the same architecture, seed and initial weights.

    Raises:
        UserError: the folder has no config.yaml to tell what it started from.
    """
    from taudl_dist.config import load_yaml, resolve
    from taudl_dist.model import build_model

    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{run} has no config.yaml, which tells what the network was before training; --baselines needs a run folder"
        )
    config = resolve(load_yaml(path))
    model = build_model(config.model, seed=config.seed)
    model.image_size = (config.batch.height, config.batch.width)
    return model.to(device).eval()


def _histogram(jpeg: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((_WIDTH, _HEIGHT)).convert("HSV")
    hue, saturation, value = (np.asarray(image, np.int64)[..., c] * bins // 256 for c, bins in enumerate(BINS))
    num_bins = int(np.prod(BINS))
    stripe = np.arange(_HEIGHT)[:, None] * STRIPES // _HEIGHT
    index = ((stripe * BINS[0] + hue) * BINS[1] + saturation) * BINS[2] + value
    counts = np.bincount(index.ravel(), minlength=STRIPES * num_bins)
    return np.sqrt(counts / (_HEIGHT * _WIDTH)).astype(np.float32)
