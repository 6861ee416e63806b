"""Itineraries: one place at a time, training before testing, nobody in view at the boundary."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from data_tools.synthetic.cameras import draw_cameras
from data_tools.synthetic.settings import FPS, LONGEST_CROSSING_S, WorldSettings
from data_tools.synthetic.world import Crossing, draw_crossings
from taudl_dist.errors import UsageError


def _settings(**changes) -> WorldSettings:
    return WorldSettings(**{"seed": 1, "num_cameras": 4, "num_people": 30, "seconds": 120.0, **changes})


def _crossings(settings: WorldSettings) -> list[Crossing]:
    return draw_crossings(settings, draw_cameras(settings))


WORLDS = [
    _settings(),
    _settings(num_cameras=1, num_people=2),  # the smallest
    _settings(num_cameras=9, num_people=7, seconds=16.0),  # no time for all visits
    _settings(seconds=75.3),  # halves are not whole frames
]


@pytest.mark.parametrize("settings", WORLDS)
def test_times(settings: WorldSettings):
    boundary = settings.test_start_s * FPS
    by_person = defaultdict(list)
    for crossing in _crossings(settings):
        end = crossing.start_frame + crossing.num_frames
        assert 0 < crossing.num_frames <= LONGEST_CROSSING_S * FPS
        assert crossing.start_frame >= 0
        assert end < settings.num_frames
        is_training = crossing.person in settings.train_people
        assert end < boundary - 5 if is_training else crossing.start_frame > boundary + 5
        by_person[crossing.person].append((crossing.start_frame, end))
    assert set(by_person) == {*settings.train_people, *settings.test_people}
    for spans in by_person.values():
        assert all(later[0] - earlier[1] > FPS for earlier, later in pairwise(sorted(spans)))


def test_most_cameras_are_visited_and_some_twice():
    visits = defaultdict(list)
    for crossing in _crossings(_settings(num_people=100, seconds=240.0)):
        visits[crossing.person].append(crossing.camera)
    different = [len(set(cameras)) for cameras in visits.values()]
    assert min(different) >= 2
    assert sum(different) > 0.85 * 4 * 100
    assert 0.2 < sum(len(set(cameras)) < len(cameras) for cameras in visits.values()) / 100 < 0.7


def test_people_are_disjoint_and_halved():
    settings = _settings(num_people=7)
    assert settings.train_people == [1, 2, 3, 4]
    assert settings.test_people == [5, 6, 7]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"num_people": 1}, "--people 1"),
        ({"num_cameras": 0}, "--cameras 0"),
        ({"seconds": 15.0}, "--seconds 15"),
        ({"seconds": float("nan")}, "--seconds nan"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_bad_numbers(change: dict, flag: str):
    with pytest.raises(UsageError, match=flag):
        _settings(**change)
