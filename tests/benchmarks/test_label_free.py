"""Correlations against scipy's, and the tables."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.label_free import coefficients, correlations, markdown
from taudl_dist.evaluation.label_free import MEANINGS


def points(run, rank1, **metrics):
    others = {name: [0.5] * len(rank1) for name in MEANINGS}
    columns = {**others, **metrics}
    return [
        {
            "run": run,
            "step": 50 * place,
            "rank1": rate,
            "mAP": rate / 2,
            **{name: v[place] for name, v in columns.items()},
        }
        for place, rate in enumerate(rank1)
    ]


def test_coefficients():
    rng = np.random.default_rng(0)
    rank1, metric = rng.random(9), rng.random(9).round(1)  # with ties
    found = coefficients(points("a", rank1, reciprocity=metric), "reciprocity", "rank1")
    assert found == pytest.approx([stats.spearmanr(metric, rank1)[0], stats.pearsonr(metric, rank1)[0]])


def test_a_number_that_does_not_vary_has_none():
    assert np.isnan(coefficients(points("a", [0.1, 0.2, 0.3]), "reciprocity", "rank1")).all()


def test_within_and_across_runs():
    rising = points("a", [0.1, 0.2, 0.3], reciprocity=[0.1, 0.2, 0.3])
    falling = points("b", [0.1, 0.2, 0.4], reciprocity=[0.3, 0.2, 0.1])
    third = points("c", [0.1, 0.2, 0.5], reciprocity=[0.1, 0.2, 0.05])
    row = next(row for row in correlations(rising + falling + third) if row["metric"] == "reciprocity")
    assert row["rank1"]["within"][0] == pytest.approx((1 - 1 - 0.5) / 3)
    assert row["rank1"]["worst"][0] == pytest.approx(-1)
    assert row["rank1"]["across"][0] == pytest.approx(-1)
    lines = markdown(correlations(rising + falling + third), rising + falling + third).splitlines()
    assert lines[2].startswith("| a, 100 | 30.0 | 15.0 |")
    assert any(line.startswith("| reciprocity | -0.17 |") for line in lines)
