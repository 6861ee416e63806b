"""JPEGs in, one normalised tensor out: the only module that knows DALI.

Decode, crop, resize, flip, normalise, in one graph for CPU and GPU. Which images, which crops, which flips: all of it is input, DALI
decides no order and draws no random number. An image's pixels do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from taudl_dist.errors import UserError

if TYPE_CHECKING:
    import torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per channel, for pixels in [0, 1]."""

_MAX_PIXELS = 64 * 2**20
_MAX_THREADS = 8
_START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


class CorruptImageError(UserError):
    """An image that cannot be decoded; `position` is its place in the list, for a caller who knows where it came from."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"image {position} of the batch: {reason}")
        self.position = position
        self.reason = reason


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header, without decoding.

    Raises:
        UserError: not a JPEG, a damaged header, or more than 64 megapixels.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise UserError(f"not a JPEG: it starts with {bytes(jpeg[:4])!r}")
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _START_OF_FRAME:
            height, width = int.from_bytes(jpeg[at + 5 : at + 7]), int.from_bytes(jpeg[at + 7 : at + 9])
            if not 0 < height * width <= _MAX_PIXELS:
                raise UserError(f"a JPEG of {width} x {height} pixels; expected 1 to {_MAX_PIXELS} pixels")
            return width, height
        else:
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    raise UserError(f"a damaged JPEG: no frame header in its {len(jpeg)} bytes")


def jpeg_sizes(jpegs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights, (N,) int64 each.

    Raises:
        CorruptImageError: the first that is no JPEG.
    """
    sizes = np.empty((2, len(jpegs)), np.int64)
    for position, jpeg in enumerate(jpegs):
        try:
            sizes[:, position] = jpeg_size(jpeg)
        except UserError as error:
            raise CorruptImageError(position, str(error)) from None
    return sizes[0], sizes[1]


class DecodePipeline:
    """Decodes up to `max_batch` images at a time.

    Args:
        max_batch: largest number of images of one call.
        height, width: size in pixels of every image of the result.
        device: where to decode and where the result lies: "cpu", "cuda" or "cuda:N".
        num_threads: decoding threads; None takes the CPUs this process may use, at most 8. The result does not depend on it.
    """

    def __init__(
        self,
        max_batch: int,
        height: int,
        width: int,
        device: str | torch.device = "cpu",
        *,
        num_threads: int | None = None,
    ) -> None:
        import torch

        self._size = (height, width)
        self._max_batch = max_batch
        self._threads = num_threads or min(_MAX_THREADS, len(os.sched_getaffinity(0)))
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._pipeline = self._build(max_batch)

    def decode(self, jpegs: Sequence[bytes], windows: ArrayLike, flips: ArrayLike) -> torch.Tensor:
        """Crops, resizes and normalises: (N, 3, H, W) float32 on the device, in memory of its own.

        Args:
            jpegs: N encoded images, 1 <= N <= max_batch.
            windows: (N, 4) x, y, width, height of each crop as shares of the image.
            flips: (N,) which images to mirror.

        Raises:
            CorruptImageError: an image that cannot be decoded, with its position.
        """
        assert 1 <= len(jpegs) <= self._max_batch, (len(jpegs), self._max_batch)
        windows, flips = np.asarray(windows, np.float32), np.asarray(flips, np.int32)
        jpeg_sizes(jpegs)
        try:
            return self._run(self._pipeline, jpegs, windows, flips)
        except RuntimeError:  # DALI does not say which image, and gives up the pipeline
            self._pipeline = self._build(self._max_batch)
            self._raise_corrupt(jpegs)
            raise

    def _run(self, pipeline: Any, jpegs: Sequence[bytes], windows: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        import torch

        (images,) = pipeline.run(
            jpegs=[np.frombuffer(jpeg, np.uint8) for jpeg in jpegs],
            anchors=windows[:, :2].copy(),
            shapes=windows[:, 2:].copy(),
            flips=flips,
        )
        batch = torch.from_dlpack(images.as_tensor())
        if self._stream is None:
            return batch.clone()
        with torch.cuda.stream(self._stream):  # not behind the training kernels of the default stream
            own = batch.clone()
        own.record_stream(torch.cuda.default_stream(self._device))
        self._stream.synchronize()  # DALI reuses its buffer
        return own

    def _raise_corrupt(self, jpegs: Sequence[bytes]) -> None:
        whole, unflipped = np.array([[0, 0, 1, 1]], np.float32), np.zeros(1, np.int32)
        for position, jpeg in enumerate(jpegs):
            try:
                self._run(self._build(1), [jpeg], whole, unflipped)
            except RuntimeError:
                raise CorruptImageError(position, f"a damaged JPEG of {len(jpeg)} bytes") from None

    def _build(self, max_batch: int) -> Any:
        try:
            from nvidia.dali import fn, pipeline_def, types
        except ImportError as error:
            raise ImportError(
                "decoding needs NVIDIA DALI: pip install nvidia-dali-cuda130 (CPU and GPU; nvidia-dali-cuda120 with CUDA 12)"
            ) from error
        on_gpu = self._device.type == "cuda"

        @pipeline_def
        def graph() -> Any:
            images = fn.decoders.image_slice(
                fn.external_source(name="jpegs", dtype=types.DALIDataType.UINT8, ndim=1),
                fn.external_source(name="anchors", dtype=types.DALIDataType.FLOAT, ndim=1),
                fn.external_source(name="shapes", dtype=types.DALIDataType.FLOAT, ndim=1),
                axis_names="WH",
                adjust_orientation=False,  # windows are those of the stored pixels
                output_type=types.DALIImageType.RGB,
                device="mixed" if on_gpu else "cpu",
            )
            resized: Any = fn.resize(images, size=self._size, interp_type=types.DALIInterpType.INTERP_LINEAR)
            return fn.crop_mirror_normalize(
                resized,
                mirror=fn.external_source(name="flips", dtype=types.DALIDataType.INT32, ndim=0),
                mean=[255 * mean for mean in MEAN],
                std=[255 * std for std in STD],
                dtype=types.DALIDataType.FLOAT,
                output_layout="CHW",
            )

        pipeline = graph(
            batch_size=max_batch,
            num_threads=self._threads,
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=1,  # run() takes inputs and gives their outputs; the loader prefetches
        )
        pipeline.build()
        return pipeline
