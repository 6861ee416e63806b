"""Pictures of people out of a frame: boxes clipped to the frame, and crops as JPEG with fixed settings."""

from __future__ import annotations

import io

import numpy as np

QUALITY = 90


def encoder_versions() -> dict[str, str]:
    """What the bytes of a crop depend on besides video, box and settings; stands in the plan, so that a dataset is made by one."""
    import av
    import PIL
    from PIL import features

    return {
        "jpeg": f"pillow {PIL.__version__}, libjpeg {features.version('jpg')}, quality {QUALITY}, 4:2:0",
        "decoder": "ffmpeg libavcodec " + ".".join(map(str, av.library_versions["libavcodec"])),
    }


def clip_boxes(boxes: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Boxes (N, 4) x1 y1 x2 y2 in pixels, widened to whole pixels and cut at the frame's edges; int32.

    A box outside the frame comes out without area: x2 <= x1 or y2 <= y1.
    """
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    edge = np.array([width, height])
    return np.concatenate([np.clip(low, 0, edge), np.clip(high, 0, edge)], axis=1).astype(np.int32)


def encode_crop(pixels: np.ndarray, *, max_height: int) -> bytes:
    """The JPEG of a crop, RGB uint8 (h, w, 3), made smaller where it is higher than `max_height` (0: never)."""
    from PIL import Image

    crop = Image.fromarray(np.ascontiguousarray(pixels))
    if max_height and crop.height > max_height:
        width = max(1, round(crop.width * max_height / crop.height))
        crop = crop.resize((width, max_height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    crop.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()
