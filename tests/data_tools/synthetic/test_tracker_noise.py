"""Each mistake of the tracker appears at its rate, and a perfect tracker repeats the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from data_tools.synthetic.settings import FPS, TrackerNoise
from data_tools.synthetic.tracker_noise import CameraTruth, track
from data_tools.tracks import TRACKS_SCHEMA
from taudl_dist.errors import UsageError

PERFECT = TrackerNoise(jitter=0, miss_rate=0, fragment_rate=0, switch_rate=0, false_rate=0)
LENGTH = 100


def _truth(num_people: int, *, speed: float = 0.0) -> CameraTruth:
    """People of 40 x 100 pixels, 100 pixels apart, in every frame; odd ones walk to the left, the others to the right."""
    frame, crossing = (grid.ravel() for grid in np.meshgrid(np.arange(LENGTH), np.arange(num_people), indexing="ij"))
    x = 20 + 100 * crossing + speed * frame * np.where(crossing % 2, -1, 1)
    box = np.stack([x, np.full_like(x, 50), x + 40, np.full_like(x, 150)], axis=1).astype(float)
    return CameraTruth(frame=frame, crossing=crossing, person=crossing + 1, box=box, visibility=np.ones(len(frame)))


def _track(truth: CameraTruth, noise: TrackerNoise, seed: int = 0) -> pa.Table:
    return track(truth, noise, camera="cam1", num_frames=LENGTH, rng=np.random.default_rng(seed))


def _columns(table: pa.Table) -> tuple[np.ndarray, ...]:
    return tuple(table[name].to_numpy() for name in ("track", "frame", "x1", "y1"))


def test_a_perfect_tracker_repeats_the_truth():
    truth = _truth(4)
    table = _track(truth, PERFECT)
    assert table.schema == TRACKS_SCHEMA
    number, frame, x1, _ = _columns(table)
    order = np.lexsort((number, frame))
    assert (number[order] == truth.person).all()
    assert (x1[order] == truth.box[:, 0]).all()


def test_missed_frames():
    share = 1 - len(_track(_truth(4), replace(PERFECT, miss_rate=0.2))) / (4 * LENGTH)
    assert 0.14 < share < 0.26


def test_hidden_people_are_missed():
    truth = replace(_truth(1), visibility=np.where(np.arange(LENGTH) < 50, 1.0, 0.1))
    _, frame, _, _ = _columns(_track(truth, replace(PERFECT, miss_rate=0.01)))
    assert frame.max() < 50


def test_jitter_has_its_size():
    truth = _truth(4)
    number, frame, x1, _ = _columns(_track(truth, replace(PERFECT, jitter=0.02)))
    errors = x1 - truth.box[frame * 4 + number - 1, 0]
    assert 1.2 < errors.std() < 2.8  # 2 % of 100 pixels; successive errors are alike, so few are independent


def test_fragments():
    counts = [
        len(np.unique(_columns(_track(_truth(4), replace(PERFECT, fragment_rate=0.5), seed))[0])) for seed in range(5)
    ]
    expected = 4 + 4 * 0.5 * LENGTH / FPS
    assert 0.7 * expected < np.mean(counts) < 1.3 * expected


def test_a_long_gap_ends_a_track():
    truth = _truth(1)
    keep = (truth.frame < 30) | (truth.frame >= 60)
    gap = CameraTruth(**{name: getattr(truth, name)[keep] for name in vars(truth)})
    assert set(_columns(_track(gap, PERFECT))[0]) == {1, 2}


def test_two_who_pass_swap_ids():
    truth = _truth(2, speed=1.0)  # they meet in frame 50
    number, frame, x1, _ = _columns(_track(truth, replace(PERFECT, switch_rate=1.0)))
    starts_left = number == number[(frame == 0) & (x1 == 20)][0]
    x = x1[starts_left][np.argsort(frame[starts_left])]
    assert (np.diff(x)[:45] == 1).all()
    assert (np.diff(x)[55:] == -1).all()


def test_a_swap_after_a_swap_is_between_those_who_meet():
    frame, crossing = (grid.ravel() for grid in np.meshgrid(np.arange(LENGTH), np.arange(3), indexing="ij"))
    x = np.stack([200 + 4 * frame, 680 - 4 * frame, 360 - 4 * frame])[crossing, np.arange(len(frame))]
    box = np.stack([x, np.full_like(x, 50), x + 40, np.full_like(x, 150)], axis=1).astype(float)
    truth = CameraTruth(frame=frame, crossing=crossing, person=crossing + 1, box=box, visibility=np.ones(len(frame)))
    number, frame, x1, _ = _columns(_track(truth, replace(PERFECT, switch_rate=1.0)))  # 0 meets 2, then 1 meets 0
    steps = [np.diff(x1[number == who][np.argsort(frame[number == who])]) for who in np.unique(number)]
    assert len(steps) == 3
    assert max(np.abs(step).max() for step in steps) <= 4


def test_false_tracks():
    empty = CameraTruth(**{name: values[:0] for name, values in vars(_truth(1)).items()})
    table = track(
        empty, replace(PERFECT, false_rate=6.0), camera="cam1", num_frames=600 * FPS, rng=np.random.default_rng(0)
    )
    assert 40 < len(np.unique(table["track"].to_numpy())) < 80
    assert len(_track(empty, PERFECT)) == 0


@pytest.mark.parametrize("change", [{"jitter": -0.1}, {"miss_rate": 1.5}, {"switch_rate": float("nan")}])
def test_bad_rates(change: dict):
    with pytest.raises(UsageError, match=next(iter(change))):
        TrackerNoise(**change)
