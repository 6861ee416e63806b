"""Workers of Ray find each other over Ray's own network, and a group that cannot be formed is tried again."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

from taudl_dist.training.ray_group import Group, GroupConfig, interface_of, use_network_of_ray

from .conftest import FLAGS
from .faults import FaultyRun, machines, workers_below

GLOO = "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting"


class Workers:
    """Pretended workers: what they were told to do, and whether Ray may end them."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.is_cleared = False

    def execute(self, call: Any) -> None:
        self.told.append(call)

    def _clear_state(self) -> None:
        self.is_cleared = True


@pytest.mark.parametrize(
    "address, expected",
    [
        ("127.0.0.1", "lo"),
        ("203.0.113.7", None),  # nobody's: behind NAT
    ],
)
def test_interface_of(address: str, expected: str | None) -> None:
    assert interface_of(address) == expected


def test_every_address_has_its_interface() -> None:
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET and entry.address != "127.0.0.1":
                assert interface_of(entry.address) == name


@pytest.mark.parametrize("before, expected", [(None, "lo"), ("ib0", "ib0")])
def test_gloo_takes_rays_network(monkeypatch: pytest.MonkeyPatch, before: str | None, expected: str) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if before:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", before)
    use_network_of_ray()
    assert os.environ["GLOO_SOCKET_IFNAME"] == expected
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # taken back at the end with all that the test changed


@pytest.mark.parametrize(
    "error, why",
    [
        (RayTaskError("setup", f"traceback\n{GLOO}", RuntimeError(GLOO)), "Gloo connectFullMesh"),
        (ActorDiedError(), "one died meanwhile"),
    ],
)
def test_a_group_that_cannot_be_formed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(_TorchBackend, "on_start", fail)
    workers = Workers()
    with pytest.raises(WorkerGroupStartupFailedError, match=f"could not connect to each other: {why}"):
        Group().on_start(workers, GroupConfig(backend="gloo"))
    assert workers.told == [use_network_of_ray]
    assert workers.is_cleared


def test_a_group_that_forms_keeps_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_TorchBackend, "on_start", lambda *_: None)
    workers = Workers()
    Group().on_start(workers, GroupConfig(backend="gloo"))
    assert not workers.is_cleared
    assert GroupConfig().backend_cls is Group


@pytest.mark.slow
def test_a_worker_that_dies_while_they_connect(dataset: Path, tmp_path: Path) -> None:
    """The workers take every CPU: if Ray kept the places of the first ones, no others could start."""
    words = ["--data", dataset, *FLAGS, "--workers", 2]
    with machines(2) as (cluster, (second,)):
        run = FaultyRun(tmp_path / "run", words, connect_s=3.0, address=cluster.address)
        run.until((run.run / "connecting").exists, "workers that connect")
        (worker,) = workers_below(cluster.pid(second))
        worker.kill()
        run.end()
    assert "one died meanwhile" in run.log()
    assert len(run.attempts()) == 1
