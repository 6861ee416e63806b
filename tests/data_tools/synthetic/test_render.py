"""Who is in front hides who is behind, a shadow is nobody, and the true boxes fit the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_tools.synthetic import render as module
from data_tools.synthetic.cameras import draw_cameras
from data_tools.synthetic.people import draw_person
from data_tools.synthetic.render import Walker, render
from data_tools.synthetic.settings import HEIGHT, WIDTH, WorldSettings
from data_tools.synthetic.world import Crossing

CAMERA = draw_cameras(WorldSettings(seed=3, num_cameras=3, num_people=4, seconds=60))[0]
MIDDLE = 30
FAR = Crossing(person=1, camera=0, start_frame=0, num_frames=60, direction=1, lane=0.0)
NEAR = replace(FAR, person=2, lane=0.5)


def _rows(crossings: list[Crossing]) -> dict[int, tuple[tuple[float, ...], float]]:
    """Box and visibility by person in the middle of the way."""
    people = {number: draw_person(3, number) for number in (1, 2)}
    frames = [rows for _, rows in render(3, CAMERA, people, crossings, MIDDLE + 1)]
    return {crossings[number].person: (box, visibility) for _, number, box, visibility in frames[MIDDLE]}


def test_the_near_one_hides_the_far_one():
    assert _rows([FAR])[1][1] == 1
    for crossings in ([FAR, NEAR], [NEAR, FAR]):
        rows = _rows(crossings)
        assert rows[2][1] == 1
        assert rows[1][1] < 0.7


def test_a_shadow_is_nobody():
    for direction in (1, -1):
        walker = Walker(draw_person(3, 1), replace(FAR, direction=direction), CAMERA)
        figure, (_, top), (_, _, _, bottom), _ = walker.at(MIDDLE)
        below = figure[int(bottom - top) + 2 :, :, 3]
        assert below.max() > 60, "there is a shadow below the feet"
        assert below.max() < module._SOLID


def test_the_box_frames_what_is_pasted():
    people = {1: draw_person(3, 1)}
    *_, (empty, _) = render(3, CAMERA, people, [], MIDDLE + 1)  # the same light and noise
    *_, (picture, rows) = render(3, CAMERA, people, [FAR], MIDDLE + 1)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    x1, y1, x2, y2 = rows[0][2]
    is_changed = np.abs(picture[: int(y2) - 12].astype(int) - empty[: int(y2) - 12]).max(-1) > 8  # above the shadow
    assert abs(np.flatnonzero(is_changed.any(1))[0] - y1) < 4
    columns = np.flatnonzero(is_changed.any(0))
    assert x1 - 4 < columns[0] < columns[-1] < x2 + 4
    assert columns[-1] - columns[0] > 0.6 * (x2 - x1)
