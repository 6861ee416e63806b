"""Load of processors, memory, disk, network and GPUs in MLflow, of each machine of a run, as MLflow's own monitor measures it.

One worker a machine watches. MLflow's monitor ends for good at its first failure, so it is looked after and started again. What it
measures during an outage of MLflow is lost: it explains a run, it is not its result.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from taudl_dist import tracking

INTERVAL_S = 10.0
"""Between two samples, and between two looks at whether the monitor lives."""
_PATIENCE_S = 5.0
"""For the last samples when the run ends."""


class SystemMetrics:
    """The monitor of this machine.

    Args:
        place: gives what `tracking.start` returned, or None as long as MLflow is out of reach.
        node: name of this machine among the run's; empty where there is one: system/cpu_... instead of system/node_0/cpu_...
    """

    def __init__(self, place: Callable[[], Mapping[str, Any] | None], *, node: str) -> None:
        self._place, self._node = place, node
        self._monitor: Any = None
        self._starting = threading.Thread()
        self._next_look_s = 0.0

    def look(self) -> None:
        """Starts the monitor if it does not run; cheap, and never raises for MLflow."""
        thread = self._monitor and self._monitor._process
        if time.monotonic() < self._next_look_s or (thread and thread.is_alive()) or self._starting.is_alive():
            return
        self._next_look_s = time.monotonic() + INTERVAL_S
        place = self._place()
        if place:
            # an MLflow that is away answers late
            self._starting = threading.Thread(target=self._start, args=(place,), daemon=True)
            self._starting.start()

    def stop(self) -> None:
        """Ends the monitor."""
        if self._monitor:
            ending = threading.Thread(target=self._monitor.finish, daemon=True)
            ending.start()
            ending.join(_PATIENCE_S)

    def _start(self, place: Mapping[str, Any]) -> None:
        with contextlib.suppress(Exception):  # the follower of the metrics says that MLflow is away
            client = tracking.connect(place["uri"])
            client.get_run(place["run_id"])
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(
                place["run_id"],
                sampling_interval=INTERVAL_S,
                resume_logging=True,
                node_id=self._node or None,
                tracking_uri=place["uri"],
            )
            monitor.start()
            self._monitor = monitor
