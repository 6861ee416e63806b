"""`taudl train` whose loader can be made to hang: while the file HANG exists on rank RANK, reading waits.

Run as a script: hang.py RANK HANG train ... . Workers are watched more closely than in a real run.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from taudl_dist.batches import BatchLoader
from taudl_dist.cli import main
from taudl_dist.training import heartbeat

INTERVAL_S, SILENT_S, PATIENCE_S = 0.2, 1.5, (1.5, 3.0)


def watch_closely() -> None:
    """Replaces the times of heartbeat.py in this process."""
    heartbeat.INTERVAL_S, heartbeat.SILENT_S, heartbeat.PATIENCE_S = INTERVAL_S, SILENT_S, PATIENCE_S


def _may_hang(rank: str, hang: Path) -> None:
    load = BatchLoader.load

    def waiting(self: BatchLoader, step: int) -> Any:
        while os.environ.get("RANK", "0") == rank and hang.exists():
            time.sleep(0.05)
        time.sleep(0.02)
        return load(self, step)

    BatchLoader.load = waiting  # type: ignore[method-assign]


if __name__ == "__main__":
    watch_closely()
    _may_hang(sys.argv[1], Path(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
