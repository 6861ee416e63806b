"""Keyed permutations of 0..n-1, evaluated at single points: no array of n elements ever exists.

A Feistel network on Z_a x Z_b with a*b just above n, and cycle walking for the few points that fall outside
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Every argument may differ from point to point, so one call
serves thousands of permutations. Integer arithmetic alone: the same numbers on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """P[key](index), where P[key] is a permutation of 0..size-1; the arguments broadcast, 0 <= index < size < 2^52."""
    index, size, key = np.broadcast_arrays(*(np.asarray(x).astype(np.uint64) for x in (index, size, key)))
    shape, size = index.shape, size.ravel()
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // rows
    round_keys = fold(key.ravel(), np.arange(_ROUNDS)[:, None])
    point = _feistel(index.ravel(), rows, columns, round_keys)
    outside = np.flatnonzero(point >= size)
    while outside.size:  # fewer than one point in sqrt(n) is outside, so this ends after a turn or two
        point[outside] = _feistel(point[outside], rows[outside], columns[outside], round_keys[:, outside])
        outside = outside[point[outside] >= size[outside]]
    return point.astype(np.int64).reshape(shape)


def fold(key: ArrayLike, number: ArrayLike) -> NDArray[np.uint64]:
    """A new 64-bit key for each (key, number), at least 1-d."""
    key, number = np.atleast_1d(key).astype(np.uint64), np.atleast_1d(number).astype(np.uint64)
    mixed = (key ^ (number + np.uint64(1)) * _GOLDEN) * _MIX1  # wraps modulo 2^64
    mixed ^= mixed >> np.uint64(31)
    mixed *= _MIX2
    return mixed ^ (mixed >> np.uint64(29))


def _feistel(
    point: NDArray[np.uint64],
    rows: NDArray[np.uint64],
    columns: NDArray[np.uint64],
    round_keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    row, column = np.divmod(point, columns)
    for number, key in enumerate(round_keys):
        if number % 2:
            column = (column + _scramble(row, key)) % columns
        else:
            row = (row + _scramble(column, key)) % rows
    return row * columns + column


def _scramble(half: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (half * _GOLDEN ^ key) * _MIX1
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX2
    return mixed >> np.uint64(32)
