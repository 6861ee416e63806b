"""Starts a run: checks everything first, then trains in this process, in torchrun's group, or on Ray, and closes the books."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taudl_dist import tracking
from taudl_dist.batches import BatchPlan, check_world_size
from taudl_dist.config import Config, worker_range
from taudl_dist.dataset import absolute, open_dataset
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log
from taudl_dist.training import Interrupted, tracked
from taudl_dist.training.evaluator import beside_training, check_evaluation
from taudl_dist.training.heartbeat import driving
from taudl_dist.training.run_folder import RunFolder, check_folder, locked, open_run
from taudl_dist.training.world import launched_size, process_world

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def launch(config: Config) -> Path:
    """See `taudl_dist.training.train`."""
    if config.resume and config.out:
        check_folder(config)  # the settings of the run to go on with stand there
    for flag, value in (("--data", config.data), ("--out", config.out)):
        if not value:
            raise UsageError(f"{flag} is missing; for instance: taudl train --data DATASET --out RUN")
    config = _absolute(config)
    start = _train_here
    if _launcher(config) == "ray":
        from taudl_dist.training.ray_train import train_on_ray

        start = train_on_ray
    elif config.parallel.device != "auto":
        raise UsageError(
            f"--parallel.device {config.parallel.device} is for workers of Ray, and this run has none; drop it (CUDA_VISIBLE_DEVICES="
            " hides GPUs), or add --launcher ray"
        )
    try:
        return start(config)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(_no_room(config, error)) from error
        raise


def _no_room(config: Config, error: OSError) -> str:
    from taudl_dist.training.checkpoint import newest, step_of

    found = newest(Path(config.out) / "checkpoints")
    kept = f"the checkpoint of step {step_of(found)} is complete" if found else "no checkpoint is complete yet"
    return (
        f"cannot write {error.filename or config.out}: {os.strerror(error.errno or 0)}; {kept}. Make room, then go on with:"
        f" {RunFolder(path=Path(config.out)).resume_command}"
    )


def _train_here(config: Config) -> Path:
    from taudl_dist.training.loop import Loop

    with process_world() as world, stop_signals(insist=world.size == 1) as asked, contextlib.ExitStack() as held:
        run = world.first(lambda: prepare(config, workers=(world.size, world.size), held=held))
        if world.rank:
            outcome = Loop(config, run, world, stop_signal=asked).train()
            check_finished(config, run, dataclasses.asdict(outcome))
            return run.path
        with concluding(config, run), beside_training(config, run, report=log, asked=asked) as evaluate:
            outcome = Loop(config, run, world, stop_signal=asked, evaluate=evaluate).train()
            check_finished(config, run, dataclasses.asdict(outcome))
    return run.path


def prepare(config: Config, *, workers: tuple[int, int], held: contextlib.ExitStack) -> RunFolder:
    """Checks data, settings and number of workers; then locks and makes the run folder, and the MLflow run.

    Args:
        workers: fewest and most.
        held: takes the lock, and keeps it as long as it is open.
    """
    from taudl_dist.model import build_model

    dataset = open_dataset(config.data, config.storage)
    plan = BatchPlan(dataset, config)
    check_world_size(plan.num_groups, plan.cameras_per_step, workers[1])
    if (config.loss.ccta_weight or config.loss.mutual_weight) and plan.cameras_per_step < 2:
        raise UserError(
            f"{config.data} gives {plan.cameras_per_step} camera a batch, and CCTA associates tracklets across at least two;"
            " use --recipe pctd for one camera, or a dataset with more"
        )
    check_folder(config)
    check_evaluation(config)
    if config.model.weights and not _has_checkpoint(config):
        build_model(config.model, seed=config.seed)  # refuses a file that is missing, or of another architecture
    tracking.tracking_uri(config)
    held.enter_context(locked(Path(config.out)))
    run = open_run(config, dataset_digest=dataset.digest, workers=workers)
    tracked.begin(config, run)
    return run


@contextlib.contextmanager
def concluding(config: Config, run: RunFolder) -> Iterator[None]:
    """Gives the MLflow run its end status, whatever happens inside."""
    status = "FAILED"
    try:
        with driving(run.workers):
            yield
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracked.close(config, run, status=status)


def check_finished(config: Config, run: RunFolder, outcome: dict[str, Any]) -> None:
    """Raises Interrupted if the workers stopped before the last step."""
    if outcome["step"] >= config.steps:
        return
    number = outcome["signal"]
    why = f"stopped by {signal.Signals(number).name}" if number else "stopped as stop_at asks"
    message = f"{why} after {outcome['step']} steps; the state is saved. Go on with: {run.resume_command}"
    raise Interrupted(message, 128 + number if number else 0)


def _has_checkpoint(config: Config) -> bool:
    from taudl_dist.training.saved import newest

    return newest(Path(config.out) / "checkpoints") is not None


def _absolute(config: Config) -> Config:
    """Ray workers run in another folder and environment, and a run is resumed from anywhere."""
    model = config.model
    if model.weights not in ("", "imagenet"):
        model = dataclasses.replace(model, weights=str(Path(model.weights).resolve()))
    storage = config.storage
    if storage.cache_dir and not storage.cache_dir.startswith("~"):  # each machine has its own home
        storage = dataclasses.replace(storage, cache_dir=str(Path(storage.cache_dir).resolve()))
    evaluation = config.evaluation
    if evaluation.data:
        evaluation = dataclasses.replace(evaluation, data=absolute(evaluation.data))
    tracking.tracking_uri(config)
    uri = tracking.absolute(config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
    server = dataclasses.replace(config.tracking, uri=uri)
    return dataclasses.replace(
        config,
        data=absolute(config.data),
        out=str(Path(config.out).resolve()),
        model=model,
        storage=storage,
        evaluation=evaluation,
        tracking=server,
    )


def _launcher(config: Config) -> str:
    low, high = worker_range(config.workers)
    group = launched_size()
    if group is not None and config.launcher != "ray":
        if config.workers != "1" and not low <= group <= high:
            raise UsageError(
                f"--workers {config.workers}, but torchrun started {group} processes; give --workers {group}"
            )
        return "process"
    if config.launcher == "process" and high > 1:
        raise UsageError(
            f"--launcher process has one worker, found --workers {config.workers}; start the group with `torchrun"
            f" --nproc-per-node {high} -m taudl_dist.cli train ...`, or use --launcher ray"
        )
    if config.launcher == "auto":
        return "ray" if high > 1 else "process"
    return config.launcher


@contextlib.contextmanager
def stop_signals(*, insist: bool = True) -> Iterator[Callable[[], int]]:
    """While inside, SIGINT and SIGTERM are noted instead of obeyed; the value tells which came, or 0.

    Args:
        insist: a second SIGINT interrupts at once. torchrun passes on a second signal by itself, so not there.
    """
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:  # noqa: ARG001
        if seen and number == signal.SIGINT and insist:
            raise KeyboardInterrupt
        if not seen:
            log("stopping after this step, with a checkpoint" + ("; Ctrl-C again stops at once" if insist else ""))
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
