"""Cameras differ in every property, and people are larger where they are nearer."""

from __future__ import annotations

import numpy as np

from data_tools.synthetic.cameras import draw_cameras
from data_tools.synthetic.scenery import draw_background
from data_tools.synthetic.settings import HEIGHT, WIDTH, WorldSettings

CAMERAS = draw_cameras(WorldSettings(seed=3, num_cameras=5, num_people=4, seconds=60))


def test_colours_differ_between_cameras():
    grey_red_blue = np.array([[0.5, 0.5, 0.5], [0.6, 0.2, 0.2], [0.2, 0.2, 0.6]], np.float32)
    seen = np.stack([camera.see(grey_red_blue) for camera in CAMERAS])
    distance = np.abs(seen[:, None] - seen[None]).max(axis=(2, 3))
    assert (distance[~np.eye(len(CAMERAS), dtype=bool)] > 0.02).all()
    assert ((seen >= 0) & (seen <= 1)).all()


def test_people_fit_into_the_picture():
    for camera in CAMERAS:
        rows = [camera.foot_row(x, lane) for x in (0, WIDTH) for lane in (0.0, 1.0)]
        heights = [camera.person_height(row) for row in rows]
        assert min(heights) > 60
        assert max(heights) < 160
        assert heights[np.argmax(rows)] == max(heights)
        assert max(rows) < HEIGHT + 35
        assert all(row - height > 0 for row, height in zip(rows, heights))


def test_backgrounds_are_structured_and_repeatable():
    first = draw_background(3, CAMERAS[0])
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert first.std() > 10
    assert (first == draw_background(3, CAMERAS[0])).all()
    assert (first != draw_background(3, CAMERAS[1])).any()
