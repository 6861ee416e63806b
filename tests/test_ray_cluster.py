"""A private cluster keeps to itself, and goes when its process goes."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

SCRIPT = """
import time
from taudl_dist.ray_cluster import ray_session
with ray_session(cpus=1) as ray:
    with ray_session(cpus=1) as same:  # an inner session is the outer one
        assert same is ray
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    print("up", flush=True)
    time.sleep(600)
"""

DEFAULT_PORTS = {6379, 8265, 52365, 10001}
"""Ray's: of the head, the dashboard, the agent that takes jobs, and its client server."""


@pytest.mark.slow
def test_a_private_cluster_takes_no_known_port_and_dies_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    below = psutil.Process(process.pid).children(recursive=True)
    ports = {connection.laddr.port for child in below for connection in child.net_connections()}
    assert ports
    assert not ports & DEFAULT_PORTS
    agents = [child for child in below if child.name().endswith("Agent")]  # they stay for a minute, and hold nothing
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    rest = [child for child in below if child not in agents]
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in rest):
        assert time.monotonic() < deadline, [child.cmdline() for child in rest if child.is_running()]
        time.sleep(0.1)
