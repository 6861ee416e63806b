"""Progress of long work: a bar on a terminal, a log line per interval everywhere else."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_INTERVAL_S = 5.0


_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^/@\s]+|[^/@\s]*:[^@\s]*)(?=@)|(?<=password=)[^&\s]+|(?<=[?&]token=)[^&\s]+", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def log(message: str) -> None:
    """One line on stderr; stdout belongs to results."""
    print(clean(message), file=sys.stderr, flush=True)


def clean(message: str) -> str:
    """What may be shown or kept: no credentials of a URI, and no control characters, which names of cameras and files may hold.

    >>> clean("MLflow at http://ann:secret@host:5000 is out of reach")
    'MLflow at http://***@host:5000 is out of reach'
    """
    return _CONTROL.sub("?", _CREDENTIALS.sub("***", message))


def progress(items: Iterable[Item], label: str, *, unit: str = "it", total: int | None = None) -> Iterator[Item]:
    """Yields the items, showing how far it is, how fast, and how long it will take."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, unit=unit, total=total, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= _INTERVAL_S:
            last = now
            log(f"{label}: {_state(done, total, now - start, unit)}")
        yield item


def _state(done: int, total: int | None, elapsed_s: float, unit: str) -> str:
    rate = done / elapsed_s
    if total is None:
        return f"{done} {unit}, {rate:.1f} {unit}/s"
    left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
    return f"{done}/{total} {unit}, {rate:.1f} {unit}/s{left}"
