"""Training on Ray: the driver, and what each worker runs; see ray_faults.py for what happens when workers come and go.

The workers run the same loop as a plain process. They find the newest complete checkpoint themselves, for one that Ray was told of
can be lost when a worker dies. What rank 0 has to say reaches the user through train.log, free of Ray's own messages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, worker_range
from taudl_dist.errors import UserError
from taudl_dist.progress import log
from taudl_dist.ray_cluster import ray_session
from taudl_dist.training.launch import check_finished, concluding, prepare, stop_signals
from taudl_dist.training.run_folder import RunFolder, write_text
from taudl_dist.training.world import TIMEOUT_S, World

_ENVIRONMENT = {
    # Between two looks of the controller at its workers; a thousand short calls a second are no load. Ray's 2 s add to every recovery.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Until the controller thinks again about how many workers fit. It first tries the number it had, for it learns only every 20 s
    # what machines are left; of Ray's 60 s most are lost then. It covers reserving places only, not starting workers or machines,
    # and is only tried again, so that it may be short on a large cluster too.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    # Between two looks at machines about to be taken away; Ray's 5 s are a sixth of the shortest notice a cloud gives.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Until a worker that is stopped dead counts as lost; as long as a collective waits for it.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(TIMEOUT_S),
}

RESIZE_INTERVAL_S = 60.0
"""Seconds between two looks for room for more workers; taking them in costs a restart, so machines that come one by one wait."""


def train_on_ray(config: Config) -> Path:
    """Trains with Ray Train workers, on the cluster of RAY_ADDRESS or on a private one on this machine."""
    low, high = worker_range(config.workers)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with stop_signals() as asked_early, contextlib.ExitStack() as held:
        run = prepare(config, workers=(low, high), held=held)
        ray = ray_session(cpus=max(high + bool(config.evaluation.every), os.cpu_count() or 1))
        with concluding(config, run), ray, stop_signals() as asked_late:  # Ray takes SIGTERM for itself when it starts
            # not before: it imports Ray, which reads its environment then
            from taudl_dist.training.ray_faults import Yielded, find, for_the_user, newest_step

            use_gpu = _check_resources(low, config.parallel.device)
            failure: list[BaseException] = []
            fit = threading.Thread(target=_fit, args=(config, run, use_gpu, failure), daemon=True)
            fit.start()
            _wait(fit, run, lambda: asked_early() or asked_late())
            outcome = run.info()["outcome"]
            if failure and find(failure[0], lambda error: isinstance(error, Yielded)):
                # stopped while no worker was there
                outcome = {"step": newest_step(run), "signal": asked_early() or asked_late()}
            elif failure:
                raise for_the_user(failure[0]) or failure[0]
            check_finished(config, run, outcome)
    return run.path


def _wait(fit: threading.Thread, run: RunFolder, asked: Any) -> None:
    """Until training ends: shows what rank 0 logs, and passes a signal on to the workers."""
    shown = run.log.stat().st_size if run.log.exists() else 0
    while True:
        alive = fit.is_alive()
        if run.log.exists():
            with run.log.open() as file:
                file.seek(shown)
                for line in file:
                    log(line.rstrip("\n"))
                shown = file.tell()
        if not alive:
            return
        if asked() and not run.stop.exists():
            write_text(run.stop, str(asked()))
        fit.join(0.2)


def _fit(config: Config, run: RunFolder, use_gpu: bool, failure: list[BaseException]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from taudl_dist.training.ray_faults import Faults, NoteSigterm
    from taudl_dist.training.ray_group import GroupConfig
    from taudl_dist.training.ray_validation import validation_config

    low, high = worker_range(config.workers)
    num_workers: Any = high if low == high else (low, high)
    storage = run.path / ".ray"  # Ray insists on a place of its own; nothing of ours is in it
    try:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"config": config, "run": run},
            validation_config=validation_config(config, run, use_gpu=use_gpu),  # type: ignore[call-arg]  # mypy sees Train V1
            torch_config=GroupConfig(backend="nccl" if use_gpu else "gloo", timeout_s=TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=num_workers,
                use_gpu=use_gpu,
                elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,  # type: ignore[call-arg]  # mypy sees the class of Train V1
            ),
            run_config=RunConfig(
                name=f"taudl-{uuid.uuid4().hex[:12]}",  # a name used before would silently continue that run
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=-1),  # Faults counts, between two checkpoints
                callbacks=[Faults(run, (low, high)), NoteSigterm()],  # type: ignore[list-item]
            ),
        )
        _take_over(storage, f"train-{trainer.train_run_context.run_id}")  # type: ignore[attr-defined]  # as above
        trainer.fit()
    except BaseException as error:  # raised again in the main thread
        failure.append(error)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _take_over(storage: Path, requester: str) -> None:
    """Gives back what a driver that was killed had reserved for this run; Ray would keep it from us for three minutes."""
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    note = storage / "requester"
    if note.exists():
        ray.get(get_or_create_autoscaling_coordinator().cancel_request.remote(requester_id=note.read_text()))
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir()
    write_text(note, requester)


def _work(payload: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray.train
    from ray.train.torch import get_device

    from taudl_dist.ray_metrics import TrainingMetrics
    from taudl_dist.training.loop import Loop
    from taudl_dist.training.ray_faults import Requests, Yielded, append
    from taudl_dist.training.ray_validation import evaluate_with_ray

    context, config, run = ray.train.get_context(), payload["config"], payload["run"]
    world = World(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        local_size=context.get_local_world_size(),
        local_rank=context.get_local_rank(),
        node=context.get_node_rank(),
        device=get_device(),
    )
    requests = Requests(run, rank=world.rank)
    loop = Loop(
        config,
        run,
        world,
        stop_signal=requests,
        evaluate=evaluate_with_ray(run, rank=world.rank),
        report=lambda line: append(run.log, line),
        measure=TrainingMetrics(run=run.path.name, rank=world.rank),
    )
    requests.attempt = loop.attempt
    outcome = loop.train()
    if world.rank == 0:
        run.request.unlink(missing_ok=True)  # answered: the state is saved
    if outcome.signal and not outcome.model and not run.stop.exists():
        raise Yielded(f"saved after {outcome.step} steps")


def _check_resources(workers: int, device: str) -> bool:
    """Whether workers get a GPU each; refuses a cluster that could never start them, unless a device is asked for, which may come."""
    import ray

    deadline = time.monotonic() + 5
    while "CPU" not in ray.cluster_resources() and time.monotonic() < deadline:
        time.sleep(0.1)
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if device != "auto":
        there = gpus if device == "gpu" else cpus
        if there < workers:
            log(f"waiting for {workers} {device.upper()}s; the Ray cluster has {there} so far")
        return device == "gpu"
    if gpus and gpus < workers:
        raise UserError(
            f"--workers {workers}: the Ray cluster has {gpus} GPUs; use --workers {gpus}, --parallel.device cpu to train on CPUs, or"
            " --parallel.device gpu to wait for more"
        )
    if cpus < workers:
        raise UserError(
            f"--workers {workers}: the Ray cluster has {cpus} CPUs, and each worker takes one; use --workers {max(cpus, 1)}, add nodes,"
            " or wait for them with --parallel.device cpu (or gpu)"
        )
    return gpus > 0
