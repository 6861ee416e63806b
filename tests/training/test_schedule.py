"""The learning rate against the released code's rule, written out (epochs of 200: constant to 100, then lr * 0.001 ** ((e - 100) / 50))."""

import pytest

from taudl_dist.config import OptimConfig
from taudl_dist.training.schedule import learning_rate


@pytest.mark.parametrize("epoch", [0, 1, 99, 100, 101, 125, 150, 199])
def test_equals_the_released_schedule(epoch: int) -> None:
    expected = 3.5e-4 * (1.0 if epoch <= 100 else 0.001 ** ((epoch - 100) / 50))
    assert learning_rate(epoch * 15, steps=200 * 15, config=OptimConfig()) == pytest.approx(expected, rel=1e-12)


def test_decay_start_of_one_keeps_it_constant() -> None:
    config = OptimConfig(decay_start=1.0)
    assert {learning_rate(step, steps=10, config=config) for step in range(10)} == {config.lr}
