"""Training on Ray: the only module that knows Ray Train.

The workers run the same loop as a plain process. They find the newest complete checkpoint themselves, for one that Ray was told of
can be lost when a worker dies. What rank 0 has to say reaches the user through train.log, free of Ray's own messages.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, worker_range
from taudl_dist.errors import UserError
from taudl_dist.progress import log
from taudl_dist.training.launch import check_finished, concluding, prepare, stop_signals
from taudl_dist.training.run_folder import RunFolder, write_text
from taudl_dist.training.world import TIMEOUT_S, World

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_worker_niceness": "0",  # Ray's 15 starves training beside any other process
}

MAX_FAILURES = 3
"""Times the workers are started again after one was lost."""


def train_on_ray(config: Config) -> Path:
    """Trains with Ray Train workers, on the cluster of RAY_ADDRESS or on a private one on this machine."""
    low, high = worker_range(config.workers)
    with stop_signals() as asked:
        run = prepare(config, workers=(low, high))
        with concluding(config, run), cluster(high):
            use_gpu = _check_resources(low)
            failure: list[BaseException] = []
            fit = threading.Thread(target=_fit, args=(config, run, use_gpu, failure), daemon=True)
            fit.start()
            _wait(fit, run, asked)
            if failure:
                raise _plain(failure[0], run)
            check_finished(config, run, run.info()["outcome"])
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
    from ray.train.torch import TorchConfig, TorchTrainer

    low, high = worker_range(config.workers)
    num_workers: Any = high if low == high else (low, high)
    storage = run.path / ".ray"  # Ray insists on a place of its own; nothing of ours is in it
    try:
        TorchTrainer(
            _work,
            train_loop_config={"config": config, "run": run},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=f"taudl-{uuid.uuid4().hex[:12]}",  # a name used before would silently continue that run
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[_on_failure(run)],
            ),
        ).fit()
    except BaseException as error:  # raised again in the main thread
        failure.append(error)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _work(payload: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    import ray.train
    from ray.train.torch import get_device

    from taudl_dist.training.loop import Loop

    context, run = ray.train.get_context(), payload["run"]
    world = World(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        local_size=context.get_local_world_size(),
        device=get_device(),
    )

    def stop_signal() -> int:
        return int(run.stop.read_text()) if world.rank == 0 and run.stop.exists() else 0

    Loop(payload["config"], run, world, stop_signal=stop_signal, report=lambda line: _append(run.log, line)).train()


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _on_failure(run: RunFolder) -> Any:
    from ray.train import UserCallback

    class OnFailure(UserCallback):
        """Runs in Ray's controller. What the user must mend is raised there, which ends the run instead of trying again."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
            for error in worker_exceptions.values():
                cause = _for_the_user(error)
                if cause:
                    raise cause
            ranks = ", ".join(map(str, sorted(worker_exceptions)))
            _append(run.log, f"lost worker {ranks}; starting again from the newest checkpoint")

    return OnFailure()


def _for_the_user(error: BaseException) -> BaseException | None:
    """What only the user can mend (a UserError, a full or read-only disk) somewhere inside what Ray made of it, or None."""
    final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in final):
        return error
    inside = [getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause", "__cause__")]
    inside += list(getattr(error, "worker_failures", {}).values())
    found = (_for_the_user(part) for part in inside if isinstance(part, BaseException))
    return next(filter(None, found), None)


def _plain(error: BaseException, run: RunFolder) -> BaseException:
    cause = _for_the_user(error)
    if cause:
        return cause
    if _died(error):
        return UserError(
            f"workers were lost {MAX_FAILURES + 1} times (killed, out of memory, or their machine gone); find out why, then go on"
            f" with: taudl train --out {run.path} --resume"
        )
    return error


def _died(error: BaseException) -> bool:
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {}).values()
    return any(isinstance(part, RayActorError) or "ActorDied" in repr(part) for part in failures)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[None]:
    """The Ray cluster this process is in, that of RAY_ADDRESS, or a private one that ends with the run."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nobody else talks to a private cluster
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    temporary = None
    if address:
        ray.init(address=address, **quiet)
    else:
        temporary = tempfile.mkdtemp(prefix="taudl-", dir="/tmp")  # socket paths must stay under 107 bytes
        cores = max(workers, os.cpu_count() or 1)
        log(f"starting Ray for {workers} worker{'s' * (workers > 1)}")
        private: dict[str, Any] = {
            "object_store_memory": 128 * 2**20,
            "include_dashboard": False,
            "_temp_dir": temporary,
        }
        ray.init(address="local", num_cpus=cores, **private, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_resources(workers: int) -> bool:
    """Whether workers get a GPU each; refuses a cluster that could never start them."""
    import ray

    deadline = time.monotonic() + 5
    while "CPU" not in ray.cluster_resources() and time.monotonic() < deadline:
        time.sleep(0.1)
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if gpus and gpus < workers:
        raise UserError(
            f"--workers {workers}: the Ray cluster has {gpus} GPUs; use --workers {gpus}, or hide them with CUDA_VISIBLE_DEVICES= to train on CPUs"
        )
    if cpus < workers:
        raise UserError(
            f"--workers {workers}: the Ray cluster has {cpus} CPUs, and each worker takes one; use --workers {max(cpus, 1)}, or add nodes"
        )
    return gpus > 0
