"""Seeded choices: what they depend on, and that they stay what they were."""

from collections import Counter

import pytest

from data_tools.benchmarks.draws import first_identities, shuffled
from taudl_dist.errors import UsageError


def test_the_order_is_a_function_of_seed_purpose_and_things():
    assert shuffled([1, 2, 3, 4, 5], seed=0, purpose="x") == [2, 1, 4, 5, 3]  # pinned: datasets are made with it
    assert shuffled([5, 4, 3, 2, 1, 1], seed=0, purpose="x") == shuffled([1, 2, 3, 4, 5], seed=0, purpose="x")
    others = {tuple(shuffled(range(9), seed=seed, purpose=purpose)) for seed in range(3) for purpose in "xy"}
    assert len(others) == 6


def test_every_thing_is_first_about_as_often():
    first = Counter(shuffled(range(4), seed=seed, purpose="x")[0] for seed in range(4000))
    assert all(abs(first[thing] - 1000) < 5 * 27 for thing in range(4))  # 5 standard deviations


@pytest.mark.parametrize(("number", "people"), [(0, {2, 7, 11}), (1, {2}), (3, {2, 7, 11})])
def test_first_identities(number, people):
    assert first_identities([7, 2, 11, 2], number) == people


@pytest.mark.parametrize("number", [-1, 4])
def test_identities_that_are_not_there(number):
    with pytest.raises(UsageError, match=f"--identities {number}: this copy has 3 training identities"):
        first_identities([7, 2, 11, 2], number)
