"""Load of a machine in MLflow: by node, and going on after the monitor has ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from taudl_dist import tracked_system, tracking
from taudl_dist.tracked_system import SystemMetrics

CPU = "system/node_1/cpu_utilization_percentage"


@pytest.mark.slow
def test_a_machine_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metrics carry its name; a monitor that died (as MLflow's does at an outage) is replaced, and its steps go on."""
    monkeypatch.setattr(tracked_system, "INTERVAL_S", 0.2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = tracking.connect(uri)
    run_id = client.create_run("0").info.run_id

    def steps() -> list[int]:
        return [metric.step for metric in client.get_metric_history(run_id, CPU)]

    def look_until(count: int) -> None:
        deadline = time.monotonic() + 60
        while len(steps()) < count and time.monotonic() < deadline:
            watch.look()
            time.sleep(0.05)

    watch = SystemMetrics(lambda: {"uri": uri, "run_id": run_id}, node="node_1")
    look_until(2)
    first = watch._monitor
    first.finish()
    before = len(steps())
    look_until(before + 2)
    assert watch._monitor is not first
    watch.stop()
    assert len(steps()) >= before + 2
    assert sorted(steps()) == sorted(set(steps()))
    assert all(name.startswith("system/node_1/") for name in client.get_run(run_id).data.metrics)


def test_a_monitor_that_starts_slowly_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracked_system, "INTERVAL_S", 0.0)
    goes_on, started = threading.Event(), []

    def start(_: SystemMetrics, place: dict[str, str]) -> None:
        started.append(place)
        goes_on.wait(10)

    monkeypatch.setattr(SystemMetrics, "_start", start)
    watch = SystemMetrics(lambda: {"uri": "", "run_id": ""}, node="")
    for _ in range(3):
        watch.look()
    goes_on.set()
    assert len(started) == 1


def test_without_a_run_nothing_is_watched() -> None:
    watch = SystemMetrics(lambda: None, node="")
    watch.look()
    watch.stop()
    assert watch._monitor is None
