"""The learning rate as a function of the step: constant at first, then falling exponentially (Sect. 4.1; the released code's rule)."""

from __future__ import annotations

from taudl_dist.config import OptimConfig


def learning_rate(step: int, *, steps: int, config: OptimConfig) -> float:
    """Rate of a step: `lr`, and from `decay_start * steps` on lr * 0.001 ** ((step / steps - decay_start) / decay_span).

    >>> [round(learning_rate(s, steps=200, config=OptimConfig(lr=1.0)), 4) for s in (0, 100, 125, 150)]
    [1.0, 1.0, 0.0316, 0.001]
    """
    decayed = max(0.0, step / steps - config.decay_start) / config.decay_span
    return config.lr * 0.001**decayed
