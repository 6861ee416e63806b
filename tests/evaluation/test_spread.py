"""Length, direction, variance and effective rank against all pairs and the singular values."""

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation import spread as module
from taudl_dist.evaluation.spread import spread


def features(num, dim, seed=0):
    return np.random.default_rng(seed).normal(1, 1, (num, dim)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 4, 4096])
@pytest.mark.parametrize(("num", "dim"), [(12, 5), (5, 12), (2, 3), (30, 1)])
def test_against_all_pairs(num, dim, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block)
    rows = features(num, dim)
    found, exact = spread(rows), rows.astype(np.float64)
    lengths = [np.sqrt(sum(value**2 for value in row)) for row in exact]
    cosines = [
        exact[i] @ exact[j] / (lengths[i] * lengths[j]) for i in range(num) for j in range(num) if i != j
    ]  # fmt: skip
    singular = np.linalg.svd(exact - exact.mean(0), compute_uv=False)
    shares = singular[singular > 1e-9] / singular.sum()
    assert found.norm == pytest.approx(np.mean(lengths))
    assert found.norm_deviation == pytest.approx(np.std(lengths) / np.mean(lengths))
    assert found.mean_cosine == pytest.approx(np.mean(cosines))
    assert found.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=1e-9)
    assert found.dead == 0


def test_independent_dimensions_fill_their_space_and_one_direction_does_not():
    rows = np.concatenate([np.eye(6), -np.eye(6)])
    assert spread(rows).effective_rank == pytest.approx(6)
    assert spread(np.outer(np.arange(1, 9), np.ones(4))).effective_rank == pytest.approx(1)


def test_dead_dimensions():
    rows = features(20, 8)
    rows[:, [1, 5]] = 3
    assert spread(rows).dead == pytest.approx(2 / 8)


COLLAPSED = {
    # features: mean cosine
    "equal": (np.full((7, 4), 0.1, np.float32), 1),
    "zero": (np.zeros((7, 4), np.float32), np.nan),
    "one row": (np.ones((1, 4), np.float32), np.nan),
}


@pytest.mark.parametrize(("rows", "cosine"), COLLAPSED.values(), ids=COLLAPSED)
def test_collapsed(rows, cosine):
    found = spread(rows)
    assert found.mean_cosine == pytest.approx(cosine, nan_ok=True)
    assert found.effective_rank == 0
    assert found.dead == 1
    assert (found.variance == 0).all()


def test_rows_of_zeros_have_no_direction():
    rows = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    assert spread(rows).mean_cosine == pytest.approx(0)


def test_not_finite():
    rows = features(5, 3)
    rows[3, 0] = np.nan
    with pytest.raises(UserError, match="tracklet 3"):
        spread(rows)
