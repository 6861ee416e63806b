from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from taudl_dist.batches.permutation import fold, permute


def test_is_a_permutation_of_every_small_size():
    for size in range(1, 301):
        keys = np.arange(5)[:, None]
        orders = permute(np.arange(size), size, keys)
        assert (np.sort(orders, axis=1) == np.arange(size)).all(), size


@pytest.mark.parametrize("size", [99_991, 2**17, 300_000])
def test_is_a_permutation_of_large_sizes(size):
    assert len(np.unique(permute(np.arange(size), size, 3))) == size


@pytest.mark.parametrize("size", [5 * 10**7, 2**40 + 1, 2**51])
def test_sampled_points_of_huge_sizes_are_distinct_and_spread(size):
    points = permute(np.arange(10_000) + size - 10_000, size, 11)
    assert len(np.unique(points)) == 10_000
    assert points.min() >= 0 and points.max() < size
    counts = np.histogram(points, bins=10, range=(0, size))[0]
    assert abs(counts - 1000).max() < 150  # five standard deviations


def test_a_point_does_not_depend_on_its_neighbours():
    size, key = np.array([7, 5000, 12, 300]), np.array([1, 2, 3, 2**64 - 1], dtype=np.uint64)
    index = np.array([6, 4321, 0, 299])
    together = permute(index, size, key)
    assert together.tolist() == [int(permute(i, n, k)[()]) for i, n, k in zip(index, size, key, strict=True)]


def test_values_are_fixed_for_ever():
    """Another number here is another batch plan: raise PLAN_VERSION."""
    assert permute(np.arange(10), 10, 0).tolist() == [0, 1, 5, 4, 7, 3, 8, 2, 9, 6]
    assert permute(np.array([0, 1, 2]), 5 * 10**7, 12345).tolist() == [44945434, 48809765, 46072752]


def test_keys_give_different_orders():
    orders = permute(np.arange(50), 50, np.arange(1000)[:, None])
    assert len(np.unique(orders, axis=0)) == 1000


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_of_a_tiny_set_is_about_equally_likely(size):
    num_keys = 6000
    orders = permute(np.arange(size), size, np.arange(num_keys)[:, None])
    codes = orders @ (10 ** np.arange(size))
    counts = [
        int((codes == np.dot(order, 10 ** np.arange(size))).sum()) for order in itertools.permutations(range(size))
    ]
    expected = num_keys / math.factorial(size)
    assert max(abs(count - expected) for count in counts) < 6 * math.sqrt(expected)


@pytest.mark.parametrize("size", [7, 9, 16, 23])
def test_pairs_of_neighbours_are_about_equally_likely(size):
    num_keys = 20_000
    orders = permute(np.arange(size), size, np.arange(num_keys)[:, None])
    for other in (1, size - 1):
        counts = np.bincount(orders[:, 0] * size + orders[:, other], minlength=size * size).reshape(size, size)
        expected = num_keys / (size * (size - 1))
        assert counts.trace() == 0
        off_diagonal = counts[~np.eye(size, dtype=bool)]
        assert abs(off_diagonal - expected).max() < 7 * math.sqrt(expected)


def test_fold_separates_keys():
    keys = fold(np.arange(300)[:, None], np.arange(300))
    assert keys.shape == (300, 300) and len(np.unique(keys)) == 90_000
