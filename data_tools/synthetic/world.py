"""Who crosses which camera when: training people in the first half of the time, test people in the second.

A person is in one place at a time, visits most cameras in an order of their own, and some of them twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.synthetic.cameras import Camera
from data_tools.synthetic.settings import FPS, LONGEST_CROSSING_S, MARGIN_S, WorldSettings, generator

VISIT_SHARE = 0.92
REPEAT_SHARE = 0.15
_SHORTEST_CROSSING_S = 3.5
_WAY_S = 2.0  # between two cameras, at least


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One person walks through the view of one camera once; `direction` 1 is to the right, `lane` 0 far to 1 near."""

    person: int
    camera: int
    start_frame: int
    num_frames: int
    direction: int
    lane: float


def draw_crossings(settings: WorldSettings, cameras: list[Camera]) -> list[Crossing]:
    """All crossings of all people, ordered by camera and time."""
    half_s = settings.test_start_s
    crossings = []
    for people, start_s, end_s in (
        (settings.train_people, 0.0, half_s),
        (settings.test_people, half_s, settings.num_frames / FPS),
    ):
        for person in people:
            crossings += _walk(settings.seed, person, cameras, start_s + MARGIN_S, end_s - MARGIN_S)
    return sorted(crossings, key=lambda crossing: (crossing.camera, crossing.start_frame, crossing.person))


def _walk(seed: int, person: int, cameras: list[Camera], start_s: float, end_s: float) -> list[Crossing]:
    """One person's crossings between two times, spread over them at random."""
    rng = generator(seed, "itinerary", person)
    visited = _draw_visits(rng, len(cameras))
    transit_s = rng.uniform(_SHORTEST_CROSSING_S, LONGEST_CROSSING_S - 0.2)  # a person's pace is their own
    duration_s = np.clip(transit_s * rng.uniform(0.95, 1.05, len(visited)), 0, LONGEST_CROSSING_S)
    fits = np.cumsum(duration_s + _WAY_S) - _WAY_S <= end_s - start_s
    visited, duration_s = visited[fits], duration_s[fits]
    order = rng.permutation(len(visited))
    visited, duration_s = visited[order], duration_s[order]
    free_s = end_s - start_s - np.sum(duration_s + _WAY_S) + _WAY_S
    wait_s = np.cumsum(free_s * rng.dirichlet(np.ones(len(visited) + 1)))[:-1]
    begin_s = start_s + wait_s + np.concatenate([[0], np.cumsum(duration_s + _WAY_S)[:-1]])
    return [
        Crossing(
            person=person,
            camera=int(camera),
            start_frame=int(np.ceil(begin * FPS)),
            num_frames=int(duration * FPS),
            direction=1 if rng.random() < cameras[camera].right_share else -1,
            lane=float(rng.random()),
        )
        for camera, begin, duration in zip(visited, begin_s, duration_s)
    ]


def _draw_visits(rng: np.random.Generator, num_cameras: int) -> np.ndarray:
    """Cameras a person visits, at least two where there are two; second visits stand last and go first for lack of time."""
    shuffled = rng.permutation(num_cameras)
    is_visited = rng.random(num_cameras) < VISIT_SHARE
    is_visited[:2] = True
    first = shuffled[is_visited]
    return np.concatenate([first, first[rng.random(len(first)) < REPEAT_SHARE]])
