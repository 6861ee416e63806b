"""Numbers for Prometheus, through Ray: each node's agent gives them out at its metrics port, with a leading `ray_`.

Recording one costs a few microseconds; Ray's own threads carry it to the agent every few seconds. Known to processes of a Ray
cluster alone, so this module is imported where Ray already is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

_STEP_BOUNDS_S = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
_TASK_BOUNDS_S = [0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class TrainingMetrics:
    """Of one worker of a training run; call it with the numbers of each step.

    ray_taudl_steps_total, _images_total, _step_seconds, _data_wait_seconds, _step, _loss, _pctd, _ccta, _learning_rate,
    _images_per_second, _memory_bytes, _gpu_memory_bytes: tags `run` and `rank`. Memory is that of all workers together, and images
    are those of the global batch, on every rank.
    """

    def __init__(self, *, run: str, rank: int) -> None:
        tags = {"run": run, "rank": str(rank)}

        def made(kind: Any, name: str, description: str, **more: Any) -> Any:
            metric = kind(f"taudl_{name}", description=description, tag_keys=("run", "rank"), **more)
            metric.set_default_tags(tags)
            return metric

        self._steps = made(Counter, "steps_total", "Steps that this worker has done, replayed ones included.")
        self._images = made(Counter, "images_total", "Images of those steps.")
        self._step_s = made(Histogram, "step_seconds", "Time of a step.", boundaries=_STEP_BOUNDS_S)
        self._wait_s = made(
            Histogram, "data_wait_seconds", "Part of a step that waits for data.", boundaries=_STEP_BOUNDS_S
        )
        self._gauges = {
            key: made(Gauge, name, description)
            for key, name, description in (
                ("step", "step", "Steps done of the run."),
                ("loss", "loss", "Loss of the newest step (Eq. 4)."),
                ("pctd", "pctd", "Eq. 2 of the newest step."),
                ("ccta", "ccta", "Eq. 3 of the newest step."),
                ("lr", "learning_rate", "Learning rate of the newest step."),
                ("images_per_s", "images_per_second", "Speed of the newest step."),
                ("workers", "workers", "Workers of the run."),
                ("memory_bytes", "memory_bytes", "Resident memory of all workers."),
                ("gpu_memory_bytes", "gpu_memory_bytes", "Memory that all workers hold on GPUs."),
            )
        }

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Takes a step: its line of metrics.jsonl, with `images` and `seconds`."""
        self._steps.inc()
        self._images.inc(row["images"])
        self._step_s.observe(row["seconds"])
        self._wait_s.observe(row["data_wait_s"])
        for key, gauge in self._gauges.items():
            if key in row:
                gauge.set(row[key] + (key == "step"))


class TaskMetrics:
    """Of tasks that a driver fans out (sharding, embedding, ranking).

    ray_taudl_tasks_total, _task_seconds, _tasks_waiting: tag `job`, and `outcome` (done or died) of the first.
    """

    def __init__(self, *, job: str) -> None:
        self._job = job
        self._ended = Counter("taudl_tasks_total", description="Tasks that ended.", tag_keys=("job", "outcome"))
        self._seconds = Histogram(
            "taudl_task_seconds",
            description="From giving out a task to its result.",
            boundaries=_TASK_BOUNDS_S,
            tag_keys=("job",),
        )
        self._waiting = Gauge("taudl_tasks_waiting", description="Tasks given out and not ended.", tag_keys=("job",))
        self._given: dict[Any, float] = {}

    def give(self, task: Any) -> None:
        """A task was given out."""
        self._given[task] = time.monotonic()
        self._waiting.set(len(self._given), tags={"job": self._job})

    def end(self, task: Any, *, died: bool) -> None:
        """Its result is there, or its worker died."""
        self._seconds.observe(time.monotonic() - self._given.pop(task), tags={"job": self._job})
        self._ended.inc(tags={"job": self._job, "outcome": "died" if died else "done"})
        self._waiting.set(len(self._given), tags={"job": self._job})
