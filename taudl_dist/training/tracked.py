"""A run folder and its MLflow run: begun, brought up to date, closed. MLflow may be away at any time; the folder holds everything."""

from __future__ import annotations

from typing import Any

from taudl_dist import tracked_models, tracking
from taudl_dist.config import Config
from taudl_dist.progress import log
from taudl_dist.training.evaluations import Evaluations
from taudl_dist.training.run_folder import RunFolder


def begin(config: Config, run: RunFolder) -> dict[str, Any] | None:
    """Creates or opens the MLflow run and notes in run.json where it is; None if MLflow is off or out of reach."""
    place = tracking.start(config, run.info())
    if place:
        run.update(mlflow=place)
        log(f"mlflow   {tracking.address(place)}")
    return place


def close(config: Config, run: RunFolder, *, status: str) -> bool:
    """Sends all that MLflow has not got, and gives the run its status.

    Args:
        status: FINISHED, FAILED or KILLED.

    Returns:
        Whether MLflow has everything, or keeps no runs; if not, a line says how to send it later.
    """
    if tracking.tracking_uri(config) is None:
        return True
    place = tracking.start(config, run.info())
    ended = None
    if place:
        run.update(mlflow=place)
        is_sent = tracked_models.send(run.path, Evaluations(run=run.path).rows())
        model = (run.info()["outcome"] or {}).get("model")
        ended = tracking.finish(place, run.metrics, status=status, model=model) if is_sent else None
        if ended:
            run.update(mlflow=ended)
    if not ended:
        log(f"MLflow does not have all of this run; it is in {run.path}, and goes there with: taudl sync {run.path}")
    return ended is not None


def status_of(config: Config, run: RunFolder) -> str:
    """How a run that nobody drives ended: FINISHED, KILLED by a signal or --stop-at, or FAILED."""
    outcome = run.info()["outcome"]
    if not outcome:
        return "FAILED"
    return "FINISHED" if outcome["step"] >= config.steps else "KILLED"
