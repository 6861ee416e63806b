"""A private cluster keeps to itself, and goes when its process goes."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import time
import ray  # before the session sets mode and token, as training does
from taudl_dist.ray_cluster import ray_session
with ray_session(cpus=1) as ray:
    with ray_session(cpus=1) as same:  # an inner session is the outer one
        assert same is ray
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    from taudl_dist.ray_metrics import TaskMetrics, TrainingMetrics
    row = {"step": 4, "loss": 1.5, "images_per_s": 5.0, "data_wait_s": 0.1, "images": 24, "seconds": 0.2}
    TrainingMetrics(run="first", rank=1)(row)
    tasks = TaskMetrics(job="shard")
    tasks.give("a")
    tasks.end("a", died=False)
    print(ray.nodes()[0]["MetricsExportPort"], flush=True)
    time.sleep(600)
"""

DEFAULT_PORTS = {6379, 8265, 52365, 10001}
"""Ray's: of the head, the dashboard, the agent that takes jobs, and its client server."""


@pytest.mark.slow
def test_a_private_cluster_keeps_to_itself_and_dies_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no known port, listens on the loopback alone, asks for a token, and gives numbers to Prometheus."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, stdout=subprocess.PIPE)
    assert process.stdout
    metrics_port = int(process.stdout.readline())
    below = psutil.Process(process.pid).children(recursive=True)
    connections = [connection for child in below for connection in child.net_connections()]
    ports = {connection.laddr.port for connection in connections}
    assert ports
    assert not ports & DEFAULT_PORTS
    listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    environments = [child.environ() for child in below if child.name() in ("gcs_server", "raylet")]
    assert {environment["RAY_AUTH_MODE"] for environment in environments} == {"token"}
    commands = [word for child in below if child.name() == "raylet" for word in child.cmdline()]
    (socket,) = {Path(word.partition("=")[2]) for word in commands if word.startswith("--raylet_socket_name=")}
    assert socket.parents[3].parent == Path("/tmp")
    assert socket.parents[3].stat().st_mode & 0o77 == 0  # nobody else gets at it, nor at the files beside it
    (token,) = {environment["RAY_AUTH_TOKEN"] for environment in environments}
    assert len(token) == 64
    assert not any(token in word for child in below for word in child.cmdline())
    numbers = _scraped(metrics_port)
    assert 'rank="1",run="first"' in numbers["ray_taudl_step"][0]
    assert numbers["ray_taudl_step"][1] == 5
    assert numbers["ray_taudl_loss"][1] == 1.5
    assert numbers["ray_taudl_images_total"][1] == 24
    assert 'job="shard"' in numbers["ray_taudl_tasks_total"][0]
    assert {"ray_taudl_step_seconds_count", "ray_taudl_data_wait_seconds_sum", "ray_taudl_tasks_waiting"} <= set(
        numbers
    )
    agents = [child for child in below if child.name().endswith("Agent")]  # they stay for a minute, and hold nothing
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    rest = [child for child in below if child not in agents]
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in rest):
        assert time.monotonic() < deadline, [child.cmdline() for child in rest if child.is_running()]
        time.sleep(0.1)


def _scraped(port: int) -> dict[str, tuple[str, float]]:
    """Name -> (tags, value) of our numbers, as Prometheus would read them; Ray hands them on every few seconds."""
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_taudl")]
        if any("tasks_waiting" in line for line in lines) and any("taudl_loss" in line for line in lines):
            return {line.split("{")[0]: (line, float(line.split()[-1])) for line in lines}
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)
