"""A decoded frame whose colours are made where they are wanted: most of a frame shows nobody, and converting all of it costs more than
decoding it. A cut has the very pixels of the whole frame."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from taudl_dist.errors import UserError

_PLANAR = ("yuv420p", "yuvj420p")
"""Formats cut before they are converted: what nearly all cameras and encoders write. Of others the whole frame is converted."""
_STEP = 32
"""Columns that swscale converts at a time: cuts begin and end at multiples, so that each pixel is computed as in the whole frame."""


@dataclass(frozen=True)
class Picture:
    """A frame of `decoded` video (av.VideoFrame)."""

    decoded: Any

    def cut(self, box: np.ndarray) -> np.ndarray:
        """RGB uint8 (h, w, 3) of a box x1 y1 x2 y2 in whole pixels.

        Raises:
            UserError: the box is not inside the frame.
        """
        x1, y1, x2, y2 = (int(value) for value in box)
        width, height = self.decoded.width, self.decoded.height
        if x2 > width or y2 > height:
            raise UserError(
                f"a frame at {self.decoded.time or 0:.2f} s has {width} x {height} pixels, too few for a box that ends at {x2}, {y2}: the"
                " size changes in mid-stream; write the video anew at one size, or cut it there"
            )
        left, top = x1 // _STEP * _STEP, y1 // _STEP * _STEP
        right, bottom = min(-(-x2 // _STEP) * _STEP, width), min(-(-y2 // _STEP) * _STEP, height)
        if self._is_cut_first:
            return self._converted(left, top, right, bottom)[y1 - top : y2 - top, x1 - left : x2 - left]
        return self.rgb[y1:y2, x1:x2]

    @functools.cached_property
    def rgb(self) -> np.ndarray:
        """The whole frame, uint8 (H, W, 3)."""
        return self.decoded.to_ndarray(format="rgb24")

    @property
    def _is_cut_first(self) -> bool:
        has_even_size = self.decoded.width % 2 == self.decoded.height % 2 == 0
        return self.decoded.format.name in _PLANAR and has_even_size

    def _converted(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """RGB of a part with even edges."""
        import av

        height, width = bottom - top, right - left
        luma, *chroma = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in self.decoded.planes)
        part = np.empty((height * 3 // 2, width), np.uint8)
        part[:height] = luma[top:bottom, left:right]
        halves = part[height:].reshape(2, height // 2, width // 2)
        for half, plane in zip(halves, chroma):
            half[:] = plane[top // 2 : bottom // 2, left // 2 : right // 2]
        frame = av.VideoFrame.from_ndarray(part, format=self.decoded.format.name)
        frame.colorspace, frame.color_range = self.decoded.colorspace, self.decoded.color_range
        return _reformatter(width, height).reformat(frame, format="rgb24").to_ndarray()


@functools.lru_cache(maxsize=128)
def _reformatter(_width: int, _height: int) -> Any:
    """A converter for one size: making one costs as much as converting a crop."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()
