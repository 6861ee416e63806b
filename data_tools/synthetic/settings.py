"""What decides a synthetic corpus; the same settings give the same bytes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taudl_dist.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

FPS = 6
WIDTH, HEIGHT = 480, 270
MARGIN_S = 1.0
"""Nobody is in view for this long at the ends of each half of the video."""
LONGEST_CROSSING_S = 6.0


@dataclass(frozen=True, kw_only=True)
class TrackerNoise:
    """How a tracker's output differs from the truth."""

    jitter: float = 0.02
    """Standard deviation of a box's position and size, as a share of its height."""
    miss_rate: float = 0.04
    """Probability that a person in plain view is not detected in a frame; it grows as others hide the person."""
    fragment_rate: float = 0.03
    """Times per second of view that a track breaks and goes on with a new id."""
    switch_rate: float = 0.15
    """Probability that two people whose boxes overlap by half as they pass each other swap ids."""
    false_rate: float = 1.5
    """False tracks on the background per minute of video."""

    def __post_init__(self) -> None:
        for name in ("miss_rate", "switch_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"noise.{name} is {getattr(self, name)}; expected a probability, 0 to 1")
        for name, most in (("jitter", 0.2), ("fragment_rate", float(FPS)), ("false_rate", 600.0)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"noise.{name} is {getattr(self, name)}; expected 0 to {most:g}")


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """Size and seed of the world; the first half of the people and of the time is for training, the second for testing."""

    seed: int
    num_cameras: int
    num_people: int
    seconds: float
    noise: TrackerNoise = field(default_factory=TrackerNoise)

    def __post_init__(self) -> None:
        shortest_s = 2 * (LONGEST_CROSSING_S + 2 * MARGIN_S)
        checks = [
            ("seed", self.seed, 0 <= self.seed < 2**63, "an integer in [0, 2^63)"),
            ("cameras", self.num_cameras, 1 <= self.num_cameras <= 999, "1 to 999"),
            ("people", self.num_people, self.num_people >= 2, "at least 2: half of them are for testing"),
            ("seconds", self.seconds, shortest_s <= self.seconds <= 86400,
             f"{shortest_s:g} to 86400: a crossing takes up to {LONGEST_CROSSING_S:g} s, in each half of the video"),
        ]  # fmt: skip
        for name, value, is_good, expected in checks:
            if not is_good:
                raise UsageError(f"--{name} {value}: expected {expected}")

    @property
    def num_frames(self) -> int:
        return round(self.seconds * FPS)

    @property
    def test_start_s(self) -> float:
        """The boundary between training and testing, on a frame."""
        return self.num_frames // 2 / FPS

    @property
    def cameras(self) -> list[str]:
        return [f"cam{number}" for number in range(1, self.num_cameras + 1)]

    @property
    def train_people(self) -> list[int]:
        return list(range(1, self.num_people - self.num_people // 2 + 1))

    @property
    def test_people(self) -> list[int]:
        return list(range(len(self.train_people) + 1, self.num_people + 1))


def generator(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """The random numbers of one purpose; no other draw, and no order of work, moves them."""
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *keys])
