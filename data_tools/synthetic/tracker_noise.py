"""What a tracker makes of the truth: trembling boxes, missed frames, broken tracks, swapped ids, and false tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_tools.synthetic.settings import FPS, HEIGHT, WIDTH, TrackerNoise
from data_tools.tracks import TRACKS_SCHEMA

SWITCH_OVERLAP = 0.5
"""Intersection over union from which a tracker may take one person for another."""
PATIENCE_S = 0.8
"""A track that is not seen for longer has ended; the person gets a new id."""

_HIDDEN = 0.35
_MEMORY = 0.8  # of a box's tremble from frame to frame


@dataclass(frozen=True, kw_only=True)
class CameraTruth:
    """What is to be seen in one camera, a row per person and frame, in frame order.

    frame (n,), crossing (n,) and person (n,) int64; box (n, 4) float64 x1 y1 x2 y2 in pixels, inside the picture;
    visibility (n,) 0 to 1.
    """

    frame: np.ndarray
    crossing: np.ndarray
    person: np.ndarray
    box: np.ndarray
    visibility: np.ndarray


def track(
    truth: CameraTruth, noise: TrackerNoise, *, camera: str, num_frames: int, rng: np.random.Generator
) -> pa.Table:
    """The truth as a tracker would report it (TRACKS_SCHEMA); ids count from 1 in order of appearance."""
    identity = _swap(truth, noise.switch_rate, rng)
    is_found = rng.random(len(identity)) >= _miss_probability(truth.visibility, noise.miss_rate)
    pieces = []
    for who in np.unique(identity):
        rows = np.flatnonzero((identity == who) & is_found)
        if len(rows):
            box = truth.box[rows] + _tremble(rng, len(rows), noise.jitter) * _height(truth.box[rows])
            score = 0.45 + 0.5 * truth.visibility[rows] + rng.normal(0, 0.03, len(rows))
            pieces += _break(truth.frame[rows], box, score, noise.fragment_rate, rng)
    pieces += _false_tracks(noise, num_frames, rng)
    pieces.sort(key=lambda piece: (piece[0][0], *piece[1][0]))
    return _table(camera, pieces)


def _miss_probability(visibility: np.ndarray, miss_rate: float) -> np.ndarray:
    """miss_rate in plain view, 1 where only `_HIDDEN` of a person shows; never 1 for a perfect tracker's rate of 0."""
    if not miss_rate:
        return np.zeros_like(visibility)
    hidden = np.clip((0.8 - visibility) / (0.8 - _HIDDEN), 0, 1)
    return miss_rate + (1 - miss_rate) * hidden


def _swap(truth: CameraTruth, switch_rate: float, rng: np.random.Generator) -> np.ndarray:
    """The crossing each row is taken for: two that overlap may swap, from their closest moment on."""
    identity = truth.crossing.copy()
    for frame, first, second in _closest_moments(truth):
        if rng.random() < switch_rate:
            later = truth.frame >= frame
            is_first, is_second = later & (truth.crossing == first), later & (truth.crossing == second)
            # the ids they carry by now, not their own: either may have swapped before
            identity[is_first], identity[is_second] = identity[is_second][0], identity[is_first][0]
    return identity


def _closest_moments(truth: CameraTruth) -> list[tuple[int, int, int]]:
    """(frame, crossing, crossing) where two crossings overlap most, for pairs that overlap enough, in order."""
    best: dict[tuple[int, int], tuple[float, int]] = {}
    starts = np.flatnonzero(np.diff(truth.frame, prepend=-1))
    for rows in np.split(np.arange(len(truth.frame)), starts[1:]):
        for position, i in enumerate(rows):
            for j in rows[position + 1 :]:
                overlap = _overlap(truth.box[i], truth.box[j])
                pair = (int(min(truth.crossing[[i, j]])), int(max(truth.crossing[[i, j]])))
                if overlap > max(SWITCH_OVERLAP, best.get(pair, (0.0, 0))[0]):
                    best[pair] = (overlap, int(truth.frame[i]))
    return sorted((frame, *pair) for pair, (_, frame) in best.items())


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def _height(box: np.ndarray) -> np.ndarray:
    return (box[:, 3] - box[:, 1])[:, None]


def _tremble(rng: np.random.Generator, length: int, jitter: float) -> np.ndarray:
    """Offsets (length, 4) of x1 y1 x2 y2 as shares of the height; a box does not jump, it drifts."""
    fresh = jitter * rng.standard_normal((length, 4))
    offsets = np.empty_like(fresh)
    state = fresh[0]
    for row, value in enumerate(fresh):
        state = state if row == 0 else _MEMORY * state + np.sqrt(1 - _MEMORY**2) * value
        offsets[row] = state
    return offsets


Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One track: frame (n,), box (n, 4), score (n,)."""


def _break(
    frame: np.ndarray, box: np.ndarray, score: np.ndarray, fragment_rate: float, rng: np.random.Generator
) -> list[Piece]:
    """Cuts a track where it was lost for too long, and at random."""
    is_cut = (np.diff(frame) > PATIENCE_S * FPS) | (rng.random(len(frame) - 1) < fragment_rate / FPS)
    cuts = np.flatnonzero(is_cut) + 1
    return list(zip(np.split(frame, cuts), np.split(box, cuts), np.split(score, cuts)))


def _false_tracks(noise: TrackerNoise, num_frames: int, rng: np.random.Generator) -> list[Piece]:
    """Things on the background that are taken for a person for some seconds."""
    pieces = []
    for _ in range(rng.poisson(noise.false_rate * num_frames / FPS / 60)):
        length = min(num_frames, int(FPS * rng.uniform(1, 6)))
        frame = rng.integers(num_frames - length + 1) + np.arange(length)
        frame = frame[rng.random(length) >= noise.miss_rate] if noise.miss_rate < 1 else frame[:0]
        high = rng.uniform(60, 130)
        wide, x, y = high * rng.uniform(0.3, 0.5), rng.uniform(0, WIDTH - 70), rng.uniform(0, HEIGHT - high)
        box = (
            np.array([x, y, x + wide, y + high]) + high * _tremble(rng, max(len(frame), 1), noise.jitter)[: len(frame)]
        )
        if len(frame):
            pieces.append((frame, box, rng.uniform(0.3, 0.65) + rng.normal(0, 0.03, len(frame))))
    return pieces


def _table(camera: str, pieces: list[Piece]) -> pa.Table:
    if not pieces:
        return TRACKS_SCHEMA.empty_table()
    frame, box, score = (np.concatenate(column) for column in zip(*pieces))
    box = np.clip(box, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    number = np.repeat(np.arange(1, len(pieces) + 1), [len(piece[0]) for piece in pieces])
    keep = (box[:, 2] - box[:, 0] >= 4) & (box[:, 3] - box[:, 1] >= 8)
    columns = [
        pa.array([camera] * len(frame)), number, frame, frame / FPS, *box.T.astype(np.float32),
        np.clip(score, 0.05, 0.99).astype(np.float32),
    ]  # fmt: skip
    return pa.table(columns, schema=TRACKS_SCHEMA).filter(pa.array(keep))
