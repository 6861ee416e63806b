from __future__ import annotations

import numpy as np
import pytest

from taudl_dist.batches.stream import draw


def visits(numbers, size, take, key=9):
    numbers = np.asarray(numbers)
    shape = numbers.shape
    return draw(numbers, np.full(shape, size), np.full(shape, take), np.full(shape, key, dtype=np.uint64))


def test_no_repeat_in_a_visit_and_exact_rounds_for_every_small_size_and_take():
    for size in range(1, 26):
        for take in range(1, size + 1):
            num_visits = 4 * size
            items, rounds = visits(np.arange(num_visits), size, take, key=100 * size + take)
            assert all(len(set(row)) == take for row in items.tolist()), (size, take)
            whole = items.ravel()[: num_visits * take // size * size].reshape(-1, size)
            assert (np.sort(whole, axis=1) == np.arange(size)).all(), (size, take)
            assert (rounds.ravel() == np.arange(rounds.size) // size).all()


@pytest.mark.parametrize(("size", "take"), [(97, 96), (399, 200), (385, 384), (5000, 96), (1000, 999), (4999, 48)])
def test_same_for_larger_sizes_at_far_visits(size, take):
    per_cycle = size // np.gcd(size, take)
    first = 10**6 // per_cycle * per_cycle  # visits and rounds are aligned here
    items, _ = visits(first + np.arange(3 * size // take + 1), size, take)
    assert all(len(set(row)) == take for row in items.tolist())
    rounds = items.ravel()[: items.size // size * size].reshape(-1, size)
    assert len(rounds) == 3
    assert (np.sort(rounds, axis=1) == np.arange(size)).all()


def test_any_visit_alone_equals_the_visit_in_a_sequence():
    sizes, takes = np.array([5, 17, 40, 7, 1, 16]), np.array([4, 16, 16, 7, 1, 5])
    keys = np.arange(6, dtype=np.uint64)
    for number in (0, 1, 2, 3, 50, 51, 12345):
        items, _ = draw(np.full(6, number), sizes, takes, keys)
        for row, (size, take) in enumerate(zip(sizes, takes, strict=True)):
            alone, _ = visits([number], size, take, key=keys[row])
            assert items[row, :take].tolist() == alone[0].tolist()


def test_neighbouring_rounds_have_different_orders():
    items, _ = visits(np.arange(100), 20, 5)
    rounds = items.reshape(-1, 20)
    assert len(np.unique(rounds, axis=0)) == len(rounds)


@pytest.mark.parametrize(("size", "take"), [(7, 3), (6, 4), (20, 3), (12, 5)])
def test_all_pairs_come_together_about_equally_often(size, take):
    """The rule at the boundaries must not keep some items apart."""
    num_visits = 12_000
    items, _ = visits(np.arange(num_visits), size, take)
    present = np.zeros((num_visits, size))
    np.put_along_axis(present, items, 1, axis=1)
    together = (present.T @ present)[~np.eye(size, dtype=bool)]
    expected = num_visits * take * (take - 1) / (size * (size - 1))
    assert abs(together / expected - 1).max() < 0.05 + 5 / expected**0.5
