"""A figure turns with the person: faces, prints and bags show from their side only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_tools.synthetic.clothes import PATTERNS, cloth_colour
from data_tools.synthetic.figure import CANVAS, draw_figure
from data_tools.synthetic.people import BOTTOM_PATTERNS, TOP_PATTERNS, Person, draw_person

MAGENTA = (1.0, 0.0, 1.0)
FRONT, RIGHT_SIDE, BACK, LEFT_SIDE = 0.0, np.pi / 2, np.pi, -np.pi / 2  # the side the camera sees


def _person(**changes) -> Person:
    plain = replace(draw_person(0, 1).top, pattern="plain", colours=((0.2, 0.4, 0.2), (0.2, 0.4, 0.2)))
    return replace(draw_person(0, 1), top=plain, bag="none", hair_style="short", **changes)


def _share_of(picture: np.ndarray, colour: tuple[float, float, float]) -> float:
    """Share of the person's pixels with about the hue of a colour."""
    is_person = picture[..., 3] > 0.9
    rgb = picture[is_person][:, :3]
    similarity = rgb @ np.array(colour) / (np.linalg.norm(rgb, axis=1) * np.linalg.norm(colour) + 1e-6)
    return float((similarity > 0.99).mean())


@pytest.mark.parametrize(
    ("bag", "seen_from", "hidden_from"),
    [("backpack", BACK, FRONT), ("left", LEFT_SIDE, RIGHT_SIDE), ("right", RIGHT_SIDE, LEFT_SIDE)],
)
def test_a_bag_shows_from_one_side(bag: str, seen_from: float, hidden_from: float):
    person = replace(_person(), bag=bag, bag_colour=MAGENTA)
    seen = _share_of(draw_figure(person, yaw=seen_from, phase=0.0), MAGENTA)
    hidden = _share_of(draw_figure(person, yaw=hidden_from, phase=0.0), MAGENTA)
    assert seen > 0.02
    assert hidden < seen / 3


def test_a_print_shows_from_the_front():
    top = replace(_person().top, pattern="open", colours=((0.2, 0.4, 0.2), MAGENTA))
    person = replace(_person(), top=top, sleeve="short")
    share = [_share_of(draw_figure(person, yaw=yaw, phase=0.0), MAGENTA) for yaw in (FRONT, BACK)]
    assert share[0] > 0.05
    assert share[1] == 0


def test_a_face_shows_from_the_front():
    head = slice(0, 30)
    person = _person(skin=MAGENTA)
    front, back = (draw_figure(person, yaw=yaw, phase=0.0)[head] for yaw in (FRONT, BACK))
    assert _share_of(front, MAGENTA) > 3 * _share_of(back, MAGENTA)


def test_a_stride_moves_the_legs_and_stays_on_the_canvas():
    standing, striding = (draw_figure(_person(), yaw=RIGHT_SIDE, phase=phase) for phase in (0.0, np.pi / 2))
    legs = slice(120, CANVAS[0])
    width = [np.flatnonzero((figure[legs, :, 3] > 0.5).any(0)).size for figure in (standing, striding)]
    assert width[1] > 1.3 * width[0]
    for figure in (standing, striding):
        border = np.concatenate([figure[0], figure[-1], figure[:, 0], figure[:, -1]])
        assert not border[:, 3].any()


def test_pixels_are_premultiplied():
    picture = draw_figure(draw_person(5, 3), yaw=0.7, phase=1.0)
    assert picture.shape == (*CANVAS, 4)
    assert picture.min() >= 0
    assert (picture[..., :3] <= picture[..., 3:] + 1e-5).all()


@pytest.mark.parametrize("pattern", sorted({*TOP_PATTERNS, *BOTTOM_PATTERNS}))
def test_a_pattern_mixes_its_two_colours(pattern: str):
    garment = replace(_person().top, pattern=pattern, colours=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    angle, y = np.meshgrid(np.linspace(-np.pi, np.pi, 64), np.linspace(garment.top, garment.hem, 64))
    colour = cloth_colour(garment, angle, y)
    assert colour.shape == (64, 64, 3)
    assert colour.min() >= 0
    assert colour.max() <= 1
    assert (colour.std() > 0.05) == (pattern != "plain")


def test_every_pattern_is_worn():
    assert set(PATTERNS) == {*TOP_PATTERNS, *BOTTOM_PATTERNS}
