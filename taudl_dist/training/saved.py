"""Which checkpoints of a run are complete, by their names and COMPLETE.json; without torch, so that looking is quick."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

COMPLETE = "COMPLETE.json"
NAME = re.compile(r"step-(\d{10,})-([0-9a-f]+)")


def newest(folder: Path, *, trusts: Callable[[str, int], bool] = lambda attempt, step: True) -> Path | None:  # noqa: ARG005
    """The complete checkpoint with the most steps, or None.

    Args:
        trusts: tells by attempt and step whether a checkpoint counts; see `RunFolder.trusts`.
    """
    counting = [path for path in all_complete(folder) if trusts(NAME.fullmatch(path.name)[2], step_of(path))]  # type: ignore[index]
    return max(counting, default=None, key=lambda path: path.name)


def step_of(path: Path) -> int:
    """The number of steps behind a checkpoint, by its name."""
    return int(NAME.fullmatch(path.name)[1])  # type: ignore[index]


def all_complete(folder: Path) -> list[Path]:
    """All complete checkpoints, in no order."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / COMPLETE).is_file()]


def run_of(folder: Path) -> Path:
    """The run folder that a model's folder belongs to: the one that holds its checkpoint, or itself."""
    real = folder.resolve()
    return real.parent.parent if NAME.fullmatch(real.name) and real.parent.name == "checkpoints" else folder
