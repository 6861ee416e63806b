"""Patterns of cloth on a body: its colour at an angle around the body and a height, wherever the camera is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_tools.synthetic.people import Garment

RADIUS = 0.11
"""Turns an angle around the body into a length on the cloth; lengths are shares of the person's height."""


@dataclass(frozen=True, kw_only=True)
class Cloth:
    """Points of a garment: angle around the body (radians), length around the body, length down from its upper edge."""

    garment: Garment
    angle: np.ndarray
    around: np.ndarray
    down: np.ndarray

    @property
    def period(self) -> float:
        return self.garment.period

    @property
    def length(self) -> float:
        return self.garment.hem - self.garment.top


def cloth_colour(garment: Garment, angle: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colour (..., 3) of a garment; `angle` from the front, positive to the person's left; `y` down from the head's top."""
    cloth = Cloth(garment=garment, angle=angle, around=angle * RADIUS, down=y - garment.top)
    share = PATTERNS[garment.pattern](cloth)[..., None]
    first, second = np.asarray(garment.colours, np.float32)
    return first + (second - first) * share


def _wave(position: np.ndarray) -> np.ndarray:
    """A square wave with soft edges, 0 to 1."""
    return np.clip(0.5 + 2.0 * np.sin(2 * np.pi * position), 0, 1)


def _above(value: np.ndarray, soft: float = 0.01) -> np.ndarray:
    """1 where value > 0, with a soft edge."""
    return np.clip(0.5 + value / soft, 0, 1)


def _dots(c: Cloth) -> np.ndarray:
    turns = np.pi / (0.8 * c.period)
    return np.clip(6 * (np.sin(turns * c.down) * np.sin(turns * c.around)) ** 2 - 2.4, 0, 1)


def _logo(c: Cloth) -> np.ndarray:
    """A print on the chest and a bar across the back; nothing from the side."""
    size = 0.8 * c.period
    front = _above(1 - np.hypot(c.around / size, (c.down - 0.12) / size), 0.2)
    back = _above(0.03 - np.abs(c.down - 0.11)) * _above(np.abs(c.angle) - 2.3, 0.2)
    return np.maximum(front, back)


PATTERNS: dict[str, Callable[[Cloth], np.ndarray]] = {
    "plain": lambda c: np.zeros_like(c.down),
    "stripes": lambda c: _wave(c.down / c.period),
    "pinstripes": lambda c: _wave(c.around / c.period),
    "checks": lambda c: 0.5 * (_wave(c.down / c.period) + _wave(c.around / c.period)),
    "gradient": lambda c: np.clip(c.down / c.length, 0, 1),
    "block": lambda c: _above(c.down - c.length * (0.2 + 5 * c.period)),
    "dots": _dots,
    "logo": _logo,
    "diagonal": lambda c: _wave((c.down + c.around) / (1.3 * c.period)),
    "open": lambda c: _above(0.25 + 3 * c.period - np.abs(c.angle), 0.1),
    "band": lambda c: _above(0.8 * c.period - np.abs(c.down - 0.14)),
    "seam": lambda c: _above(0.35 - np.abs(np.abs(c.angle) - np.pi / 2), 0.1),
}
"""Share of the second colour, 0 to 1, by the name of the pattern."""
