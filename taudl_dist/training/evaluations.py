"""evaluations.jsonl: what the evaluated checkpoints of a run are worth, a line each, every step once; and which of them is the best.

The best one, and those whose turn is still to come, are kept from pruning. `best` in the run folder is a link to the best one, which
holds its weights as any other model folder does: `taudl evaluate --model RUN/best`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.config import Config
from taudl_dist.training.run_folder import write_text
from taudl_dist.training.saved import NAME, all_complete, step_of

BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """The evaluations of one run; several processes may write, for a driver that was killed leaves one behind.

    A row has step, checkpoint (its folder's name), time, and either `error`, or data, dataset_digest, sha256 (of the weights),
    seconds, metric (the name of the number that decides) and metrics (numbers by name).

    Args:
        run: the run folder.
    """

    run: Path

    @property
    def path(self) -> Path:
        return self.run / "evaluations.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """By step, ascending; a line that a kill cut short does not count."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        rows = [row for row in map(_parsed, text.splitlines()) if row]
        return sorted(rows, key=lambda row: row["step"])

    def add(self, row: dict[str, Any]) -> bool:
        """Records an evaluation; False if there is one of this step already."""
        with self._locked():
            rows = self.rows()
            if any(other["step"] == row["step"] for other in rows):
                return False
            self._write([*rows, row])
            return True

    def begin(self, start: int) -> None:
        """Forgets failures, which are tried again, and what a lost attempt evaluated beyond the step a run goes on from."""
        if not self.path.exists():
            return
        with self._locked():
            self._write([row for row in self.rows() if row["step"] <= start and "error" not in row])

    def best(self) -> dict[str, Any] | None:
        """The row with the highest number among those whose checkpoint is there, of equal ones the first.

        Numbers of other data, or of another name, than the newest row's do not compare.
        """
        rows = [row for row in self.rows() if "metrics" in row]
        if not rows:
            return None
        digest, metric = rows[-1]["dataset_digest"], rows[-1]["metric"]
        rivals = [
            row
            for row in rows
            if row["dataset_digest"] == digest and metric in row["metrics"] and self.checkpoint(row).is_dir()
        ]
        return max(rivals, key=lambda row: (row["metrics"][metric], -row["step"]), default=None)

    def checkpoint(self, row: dict[str, Any]) -> Path:
        """The folder of an evaluated checkpoint, which may have been pruned since."""
        return self.run / "checkpoints" / row["checkpoint"]

    def point_to_best(self) -> None:
        """Lets the link `best` name the best checkpoint."""
        row = self.best()
        if row:
            temporary = self.run / f"{BEST}.tmp-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path("checkpoints") / row["checkpoint"])
            temporary.replace(self.run / BEST)

    def pending(self, config: Config) -> list[Path]:
        """Complete checkpoints that are to be evaluated and have not been, by step."""
        done = {row["step"] for row in self.rows()}
        due = [path for path in all_complete(self.run / "checkpoints") if is_due(config, step_of(path))]
        return sorted((path for path in due if step_of(path) not in done), key=lambda path: path.name)

    def pinned(self, config: Config) -> set[str]:
        """Names of the checkpoints that must not be pruned."""
        best = self.best()
        return {path.name for path in self.pending(config)} | ({best["checkpoint"]} if best else set())

    def _write(self, rows: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.run / "evaluations.lock").open("a") as file:
            with contextlib.suppress(OSError):  # a file system without locks: one writer is the rule anyway
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def is_due(config: Config, step: int) -> bool:
    """Whether the checkpoint after `step` steps is to be evaluated."""
    every = config.evaluation.every
    return every > 0 and step > 0 and (step % every == 0 or step == config.steps)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        is_known = isinstance(row["step"], int) and NAME.fullmatch(row["checkpoint"])
        is_whole = "error" in row or (row["metric"] and row["dataset_digest"] and row["metrics"].keys())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return row if is_known and is_whole else None
