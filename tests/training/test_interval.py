"""The line of an interval sums up its own steps; the estimate rests on all of them."""

from __future__ import annotations

import time

import pytest

from taudl_dist.training.interval import Interval, clock, duration, size


def row(step: int, **more: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": 3.0,
        "pctd": 1.0,
        "ccta": 2.0,
        "data_wait_s": 0.5,
        "workers": 2,
        "memory_bytes": 3e9,
        **more,
    }


def test_a_line() -> None:
    interval = Interval(steps=10, start=2)
    for step in (2, 3):
        interval.add(row(step), images=24, seconds=2.0)
    line = interval.line()
    assert line.startswith("step 4/10  loss 3.0000 (pctd 1.0000, ccta 2.0000)  12 images/s  data wait 25%")
    assert "memory 3.0 GB in 2 workers" in line
    assert f"left 0:12, until {clock(12)}" in line
    interval.add(row(4, gpu_memory_bytes=5e8, workers=1), images=24, seconds=8.0)
    line = interval.line()
    assert "3 images/s  data wait 6%  memory 3.0 GB + 500 MB on GPUs in 1 worker  left 0:20" in line  # 12 s for 3 steps


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (7384, "2:03:04"), (90061, "1 d 1:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_clock_and_sizes() -> None:
    assert clock(0) == time.strftime("%H:%M")
    assert len(clock(3 * 86400)) == len("2026-11-25 14:00")
    assert (size(999_000_000), size(1.5e9)) == ("999 MB", "1.5 GB")
