"""Image files of benchmarks as JPEG: a JPEG's own bytes, a PNG's pixels encoded with fixed settings.

What would fail in training fails here: every file must have a readable header and an end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taudl_dist.errors import UserError

QUALITY = 95


def encoder() -> Mapping[str, str]:
    """What the bytes of an encoded image depend on besides its pixels, for dataset.json."""
    import PIL
    from PIL import features

    return {"jpeg": f"pillow {PIL.__version__}, libjpeg {features.version('jpg')}, quality {QUALITY}, 4:4:4"}


class Frames(Sequence[tuple[int, Callable[[], bytes]]]):
    """Image files of a folder as the frames of a tracklet, numbered from 0. Holds names alone: MARS has 8 * 10^5 of them."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: Any) -> Any:
        return number, image(self.folder / self.names[number])


def image(path: Path) -> Callable[[], bytes]:
    """Reads the file when it is called, and returns a JPEG.

    Raises:
        UserError: when called: the file cannot be read, or is not the image that its name says.
    """
    return partial(read_image, path)


def read_image(path: Path) -> bytes:
    """The JPEG of an image file; see `image`."""
    from PIL import Image

    is_png = path.suffix.lower() == ".png"
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG" if is_png else "JPEG"]) as picture:
            if is_png:
                return encode(np.asarray(picture.convert("RGB")))
            if b"\xff\xd9" not in content[-64:]:  # the marker of the end; padding may follow it
                picture.load()
            return content
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        kind = "PNG" if is_png else "JPEG"
        raise UserError(f"{path}: not a readable {kind} ({reason}); the copy is damaged, unpack it again") from None


def encode(pixels: np.ndarray) -> bytes:
    """The JPEG of an RGB image (H, W, 3) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return buffer.getvalue()
