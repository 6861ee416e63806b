"""Where in an image a feature comes from: what each place of the last feature map adds to the feature's length.

The gradient of half the squared length of the feature with respect to the map, times the map, summed over channels (HiResCAM of
Draelos and Carin, 2020, with the feature in the place of a class score).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from taudl_dist.model import ReidModel

_OPACITY = 0.55


@dataclass(frozen=True, kw_only=True)
class ActivationMap:
    """An image and what its places add to the feature."""

    caption: str
    jpeg: bytes
    share: np.ndarray
    """(h, w) in [0, 1]: what a place adds, over the most that any does; what takes away counts as nothing."""


def activation_maps(
    model: ReidModel, images: Sequence[tuple[str, bytes]], *, device: str = "cpu"
) -> list[ActivationMap]:
    """Maps of a few encoded images, each with its caption.

    Raises:
        UserError: an image that does not decode.
    """
    from taudl_dist.batches.pipeline import CorruptImageError, DecodePipeline

    height, width = model.image_size
    jpegs = [jpeg for _, jpeg in images]
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(jpegs), 1))
    try:
        pixels = DecodePipeline(len(jpegs), height, width, device).decode(jpegs, whole, np.zeros(len(jpegs), bool))
    except CorruptImageError as error:
        raise UserError(f"{images[error.position][0]}: {error.reason}; run `taudl validate`") from None
    model = model.to(device).eval()
    places = contributions(model, pixels.to(next(model.parameters()).dtype)).cpu().numpy()
    most = np.maximum(places.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    shares = np.clip(places, 0, None) / most
    return [ActivationMap(caption=text, jpeg=jpeg, share=share) for (text, jpeg), share in zip(images, shares)]


def contributions(model: ReidModel, pixels: torch.Tensor) -> torch.Tensor:
    """What each place of the last feature map adds to half the squared length of the feature, (B, h, w).

    Args:
        pixels: (B, 3, H, W), normalised.
    """
    import torch

    maps: list[torch.Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps[:] = [output]

    hooks = [layer.register_forward_hook(keep) for layer in model.backbone.modules()]
    try:
        with torch.enable_grad():
            features = model(pixels.requires_grad_(), [len(pixels)])
            (gradient,) = torch.autograd.grad(features.square().sum() / 2, maps[0])
    finally:
        for hook in hooks:
            hook.remove()
    return (gradient * maps[0]).sum(1).detach()


def overlaid(image: Any, share: np.ndarray) -> Any:
    """A Pillow image under the colours of a map that is stretched over it."""
    import matplotlib
    from PIL import Image

    heat = Image.fromarray(np.asarray(share, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    colours = matplotlib.colormaps["turbo"](np.clip(np.asarray(heat), 0, 1))[..., :3]
    return Image.blend(image, Image.fromarray((255 * colours).astype(np.uint8)), _OPACITY)


def decoded(jpeg: bytes) -> Any:
    """A Pillow image in RGB."""
    from PIL import Image

    return Image.open(io.BytesIO(jpeg)).convert("RGB")
