"""The log line of an interval: how far, how fast, what it waited for, what it holds, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Interval:
    """Sums up the steps since the last line.

    Args:
        steps: of the whole run.
        start: steps done before the first that is added.
    """

    def __init__(self, *, steps: int, start: int) -> None:
        self._steps, self._start = steps, start
        self._all_s = 0.0
        self._last: Mapping[str, Any] = {}
        self._clear()

    def add(self, row: Mapping[str, Any], *, images: int, seconds: float) -> None:
        """Takes in a step.

        Args:
            row: its line of metrics.jsonl.
            seconds: it took, waiting for data included.
        """
        self._last = row
        self._images += images
        self._seconds += seconds
        self._wait_s += row["data_wait_s"]
        self._all_s += seconds

    def line(self) -> str:
        """The line; what comes next is another interval."""
        row, done = self._last, self._last["step"] + 1
        left_s = (self._steps - done) * self._all_s / (done - self._start)
        gpu = f" + {size(row['gpu_memory_bytes'])} on GPUs" if "gpu_memory_bytes" in row else ""
        mutual = f", mutual {row['mutual']:.4f}" if "mutual" in row else ""
        line = (
            f"step {done}/{self._steps}  loss {row['loss']:.4f} (pctd {row['pctd']:.4f}, ccta {row['ccta']:.4f}{mutual})"
            f"  {self._images / self._seconds:.0f} images/s  data wait {self._wait_s / self._seconds:.0%}"
            f"  memory {size(row['memory_bytes'])}{gpu} in {row['workers']} worker{'s' * (row['workers'] > 1)}"
            f"  left {duration(left_s)}, until {clock(left_s)}"
        )
        self._clear()
        return line

    def _clear(self) -> None:
        self._images, self._seconds, self._wait_s = 0, 0.0, 0.0


def duration(seconds: float) -> str:
    """As 1:05 or 2:03:04, and with days before that."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def clock(in_s: float) -> str:
    """The local time in so many seconds; with its date where that is not today."""
    now, then = time.time(), time.localtime(time.time() + in_s)
    is_today = time.localtime(now)[:3] == then[:3]
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", then)


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
