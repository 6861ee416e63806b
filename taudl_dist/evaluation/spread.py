"""Whether features fill their space or have collapsed: lengths, directions, variance, effective rank. Blocks of rows, fp64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taudl_dist.evaluation.cross_camera import check_finite
from taudl_dist.evaluation.distances import runs

_BLOCK_ROWS = 4096
_DEAD = 1e-6
"""A dimension is dead whose variance is at most this share of the mean variance."""
_ROUNDING = 1e-15
"""Variances of this share of the mean squared length, times D, are rounding."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How features (N, D) lie around their mean and their origin; one that is undefined is NaN."""

    norm: float
    """Mean Euclidean length."""
    norm_deviation: float
    """Standard deviation of the lengths over their mean; NaN where all are zero."""
    mean_cosine: float
    """Mean cosine of all pairs of two different rows, rows of zeros left out; 1: one direction. NaN for fewer than two."""
    variance: np.ndarray
    """(D,) of each dimension, divided by N."""
    effective_rank: float
    """exp of the entropy of the singular values of the centred features over their sum (Roy and Vetterli, 2007); 0: a point."""

    @property
    def dead(self) -> float:
        """Share of the dimensions that (nearly) do not vary; 1 where none does."""
        return float(np.mean(self.variance <= _DEAD * self.variance.mean()))


def spread(features: np.ndarray) -> Spread:
    """Of features (N, D), N at least 1.

    Raises:
        UserError: features that are not finite.
    """
    check_finite(features)
    num, dim = features.shape
    blocks = list(runs(num, _BLOCK_ROWS))
    lengths = np.concatenate([np.linalg.norm(features[part].astype(np.float64), axis=1) for part in blocks])
    mean, direction = np.zeros(dim), np.zeros(dim)
    for part in blocks:
        rows = features[part].astype(np.float64)
        mean += rows.sum(0) / num
        direction += (rows / np.where(lengths[part] > 0, lengths[part], 1)[:, None]).sum(0)
    covariance = np.zeros((dim, dim))
    for part in blocks:
        rows = features[part].astype(np.float64) - mean
        covariance += rows.T @ rows / num
    average, rounding = lengths.mean(), np.square(lengths).mean() * dim * _ROUNDING
    return Spread(
        norm=float(average),
        norm_deviation=float(lengths.std() / average) if average > 0 else np.nan,
        mean_cosine=_mean_cosine(direction, int(np.count_nonzero(lengths))),
        variance=np.where(covariance.diagonal() > rounding, covariance.diagonal(), 0),
        effective_rank=_effective_rank(covariance, rounding=float(rounding)),
    )


def _mean_cosine(direction: np.ndarray, count: int) -> float:
    """From the sum of unit vectors, whose squared length is the sum over all pairs, each with itself included."""
    if count < 2:
        return np.nan
    return float(np.clip((direction @ direction - count) / (count * (count - 1)), -1, 1))


def _effective_rank(covariance: np.ndarray, *, rounding: float) -> float:
    values = np.linalg.eigvalsh(covariance)
    values = np.sqrt(values[values > rounding])
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
