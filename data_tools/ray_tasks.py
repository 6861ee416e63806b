"""Independent tasks on Ray: plain Ray tasks with retries, a bounded number in flight. The only module here that knows Ray."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from taudl_dist.progress import log

Task = TypeVar("Task")
Result = TypeVar("Result")

_RETRIES = 3


def run_on_ray(
    call: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[Task, Result | Exception]]:
    """Yields (task, result) as tasks end, in any order; an Exception where a worker died more than three times.

    Joins the cluster of RAY_ADDRESS where that is set; otherwise starts `workers` processes here and stops them again.
    """
    with _session(workers) as ray:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(call)
        waiting: dict[Any, Task] = {}
        queue = iter(tasks)
        while True:
            for task in queue:
                waiting[remote.remote(task)] = task
                if len(waiting) >= 2 * workers:
                    break
            if not waiting:
                return
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(done)
            try:
                result: Result | Exception = ray.get(done)
            except (
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.OutOfMemoryError,
            ) as error:
                result = error
            yield task, result


@contextmanager
def _session(workers: int) -> Iterator[Any]:
    """A Ray session of our own, or RAY_ADDRESS's. A private folder with a short name keeps foreign clusters apart."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves the work beside any other process
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
        yield ray
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this process, reachable from this machine only
    import ray

    folder = tempfile.mkdtemp(prefix="taudl-", dir="/tmp" if os.path.isdir("/tmp") else None)  # noqa: PTH112
    log(f"starting Ray with {workers} workers")
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
            _temp_dir=folder,
        )
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
