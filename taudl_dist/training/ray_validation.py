"""Ray Train's validation of checkpoints: where there is room on the cluster, one at a time, beside training.

Ray wants a reported checkpoint in its own storage, so it gets a note that names ours. Ray's controller would fall with a validation
that ends in anything but an error of Python's, so the work is done in a process below the task, and a task that died is tried again
without end: the number of tries is counted here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taudl_dist.config import Config, worker_range
from taudl_dist.training.evaluations import Evaluations
from taudl_dist.training.evaluator import Evaluate, evaluate_in_process
from taudl_dist.training.ray_faults import append
from taudl_dist.training.run_folder import RunFolder
from taudl_dist.training.saved import step_of

if TYPE_CHECKING:
    from ray.train import Checkpoint, ValidationConfig

MAX_TRIES = 3
"""Times the task of a checkpoint may die, with its machine or for want of memory."""


def validation_config(config: Config, run: RunFolder, *, use_gpu: bool) -> ValidationConfig | None:
    """How Ray evaluates the checkpoints of a run; None if none is to be evaluated.

    It gets a GPU, and a CPU, of its own where the cluster has more of them than there can be workers.
    """
    import ray
    from ray.train import ValidationConfig

    if not config.evaluation.every:
        return None
    high, resources = worker_range(config.workers)[1], ray.cluster_resources()
    gpus = int(use_gpu and resources.get("GPU", 0) > high)
    cpus = int(resources.get("CPU", 0) > high)
    if not cpus:
        append(run.log, "the cluster has no CPU beside those of the workers: evaluations of checkpoints share theirs")
    return ValidationConfig(fn=_validate, ray_remote_kwargs={"num_cpus": cpus, "num_gpus": gpus, "max_retries": -1})


def evaluate_with_ray(run: RunFolder, *, rank: int) -> Evaluate:
    """For the loop of a Ray Train worker: reports a checkpoint for validation."""
    import ray.train
    from ray.train import ValidationTaskConfig

    def evaluate(checkpoint: Path) -> None:
        if rank:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint").write_text(checkpoint.name)
            ray.train.report(
                {},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                validation=ValidationTaskConfig(fn_kwargs={"run": str(run.path), "name": checkpoint.name}),
            )

    return evaluate


def _validate(checkpoint: Checkpoint, **which: Any) -> dict[str, Any]:  # noqa: ARG001 - Ray passes the note
    """The task; `which` holds run and name."""
    folder = RunFolder(path=Path(which["run"]))
    path = folder.checkpoints / which["name"]
    tries = path / "evaluation-tries"
    if path.is_dir():
        append(tries, "1")
        if len(tries.read_text().splitlines()) > MAX_TRIES:
            return _given_up(folder, path)
    row = evaluate_in_process(folder, path, report=lambda line: append(folder.log, line), gives_up=folder.stop.exists)
    return row.get("metrics", {})


def _given_up(run: RunFolder, checkpoint: Path) -> dict[str, Any]:
    step, reason = step_of(checkpoint), f"its task died {MAX_TRIES} times, with its machine or for want of memory"
    row = {"step": step, "checkpoint": checkpoint.name, "time": time.time(), "error": reason}
    if Evaluations(run=run.path).add(row):
        append(
            run.log, f"warning: step {step} could not be evaluated ({reason}); training does not need it and goes on"
        )
    return {}
