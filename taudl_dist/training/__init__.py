"""Training: one step, the loop around it, checkpoints, and the three ways to start it (a process, torchrun, Ray Train).

No torch at import time, so that the command line stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taudl_dist.config import Config


class Interrupted(Exception):
    """A run stopped before its last step and can be resumed; `exit_code` is what a shell expects (130, 143; 0 for stop_at)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.args[0]


def train(config: Config) -> Path:
    """Trains as configured and returns the run folder.

    Raises:
        UserError: data, settings or run folder do not allow it, or training diverged.
        Interrupted: stopped by a signal or `stop_at`, with a checkpoint to resume from.
    """
    from taudl_dist.training.launch import launch

    return launch(config)


def summary(run: Path) -> dict[str, Any]:
    """What a finished run came to: its folder, steps, MLflow run, and last losses if metrics.jsonl still has them."""
    import json

    from taudl_dist.training.run_folder import RunFolder

    folder = RunFolder(path=Path(run))
    info, lines = folder.info(), folder.metrics.read_text().splitlines()
    last = json.loads(lines[-1]) if lines else {}
    losses = {key: last[key] for key in ("loss", "pctd", "ccta") if key in last}
    return {"run": str(run), "steps": info["outcome"]["step"], **losses, "mlflow": info["mlflow"]}


__all__ = ["Interrupted", "summary", "train"]
