"""A cut of a frame against the whole frame, pixel by pixel."""

from __future__ import annotations

import av
import numpy as np
import pytest

from data_tools.picture import Picture
from taudl_dist.errors import UserError

KINDS = [
    # width, height, format, colour space, range (1: limited, 2: full)
    (1920, 1080, "yuv420p", 1, 1),
    (768, 432, "yuv420p", 5, 1),
    (770, 434, "yuv420p", 6, 2),  # not multiples of anything
    (768, 432, "yuvj420p", 2, 2),
    (99, 75, "yuv420p", 2, 0),  # odd
    (320, 240, "yuv422p", 1, 1),
    (320, 240, "nv12", 1, 1),
    (320, 240, "yuv420p10le", 9, 1),
    (320, 240, "gray", 2, 0),
]


@pytest.mark.parametrize("kind", KINDS, ids=[f"{row[2]}-{row[0]}" for row in KINDS])
def test_a_cut_is_a_part_of_the_whole(kind):
    width, height, form, colorspace, color_range = kind
    rng = np.random.default_rng(0)
    frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), format="rgb24")
    frame = frame.reformat(format=form)
    frame.colorspace, frame.color_range = colorspace, color_range
    whole = frame.to_ndarray(format="rgb24")
    corners = rng.integers(0, [width, height], (40, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1)
    edges = [[0, 0, width, height], [width - 1, height - 1, width, height], [0, 0, 1, 1], [width - 40, 0, width, 40]]
    for box in [*boxes, *np.array(edges)]:
        x1, y1, x2, y2 = box.tolist()
        assert np.array_equal(Picture(frame).cut(box), whole[y1:y2, x1:x2]), box


def test_a_frame_that_is_smaller_than_its_boxes():
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
    for box in ([70, 10, 90, 40], [40, 10, 90, 40], [10, 10, 40, 60]):
        with pytest.raises(UserError, match="has 64 x 48 pixels, too few for a box that ends at"):
            Picture(frame).cut(np.array(box))


def test_the_whole_is_converted_once():
    frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    picture = Picture(frame)
    assert picture.rgb is picture.rgb
