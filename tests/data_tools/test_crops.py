"""Boxes at the frame's edges and the pictures cut out of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.crops import clip_boxes, encode_crop

CLIPPED = [
    # box, clipped to 100 x 50, remark
    ((10, 10, 20, 30), (10, 10, 20, 30)),  # whole pixels stay
    ((10.2, 10.7, 19.1, 29.5), (10, 10, 20, 30)),  # widened outwards
    ((-5, -5, 10, 10), (0, 0, 10, 10)),  # over the corner
    ((90, 40, 150, 90), (90, 40, 100, 50)),
    ((-50, 10, -1, 30), (0, 10, 0, 30)),  # outside: no width
    ((10, 60, 20, 90), (10, 50, 20, 50)),  # outside: no height
    ((-10, -10, 200, 200), (0, 0, 100, 50)),  # around everything
]


@pytest.mark.parametrize(("box", "expected"), CLIPPED)
def test_clipping(box, expected):
    assert clip_boxes(np.array([box], float), width=100, height=50).tolist() == [list(expected)]


def test_a_crop_is_the_box_and_equal_input_gives_equal_bytes():
    frame = np.zeros((50, 100, 3), np.uint8)
    frame[10:30, 40:60] = [250, 20, 30]
    jpeg = encode_crop(frame[10:30, 40:60], max_height=256)
    picture = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert picture.shape == (20, 20, 3) and np.abs(picture.reshape(-1, 3).mean(0) - [250, 20, 30]).max() < 6
    assert jpeg == encode_crop(frame[10:30, 40:60].copy(), max_height=256)


@pytest.mark.parametrize(("max_height", "size"), [(0, (40, 100)), (100, (40, 100)), (50, (20, 50)), (33, (13, 33))])
def test_high_crops_become_smaller(max_height, size):
    jpeg = encode_crop(np.zeros((100, 40, 3), np.uint8), max_height=max_height)
    assert Image.open(io.BytesIO(jpeg)).size == size
