"""Independent tasks on Ray: plain Ray tasks with retries, a bounded number in flight. The only module here that knows Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from taudl_dist.errors import UserError
from taudl_dist.ray_cluster import ray_session

Task = TypeVar("Task")
Result = TypeVar("Result")

_RETRIES = 3


def run_on_ray(
    call: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    num_cpus: int = 1,
    num_gpus: int = 0,
    job: str = "",
) -> Generator[tuple[Task, Result | Exception], None, None]:
    """Yields (task, result) as tasks end, in any order; an Exception where a worker died more than three times.

    Joins the cluster of RAY_ADDRESS where that is set; otherwise starts `workers` processes here and stops them again. A task takes
    `num_cpus` CPUs and `num_gpus` GPUs. `job` names them in Prometheus; by default as the function.
    """
    with ray_session(cpus=workers * num_cpus) as ray:
        from taudl_dist.ray_metrics import TaskMetrics

        metrics = TaskMetrics(job=job or getattr(call, "__name__", "tasks"))
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=_RETRIES)(call)
        waiting: dict[Any, Task] = {}
        queue = iter(tasks)
        while True:
            for task in queue:
                reference = remote.remote(task)
                waiting[reference] = task
                metrics.give(reference)
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
            except ray.exceptions.LocalRayletDiedError:
                raise UserError(
                    "Ray's own process on this machine died; what is done is kept, run the same command again"
                ) from None
            metrics.end(done, died=isinstance(result, Exception))
            yield task, result
