"""metrics.jsonl: one line a step, each step once and in order, however often the run was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from taudl_dist.training.run_folder import write_text


class MetricsFile:
    """Appends lines; what a lost attempt wrote from `start` on is cut away first, atomically.

    The file is always a new one, so that a worker which outlived its attempt appends to the old one, which nobody sees.

    Args:
        start: first step that will be written.
    """

    def __init__(self, path: Path, *, start: int) -> None:
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) < start]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a step; numbers stand in full."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """To disk, before a checkpoint says that these steps are done."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """Step of a line; infinite for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
