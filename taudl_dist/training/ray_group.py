"""How the workers of a Ray run find each other: torch's process group over the network that Ray itself uses.

Costs one look at the interfaces per worker. A group that cannot be formed, because a machine went meanwhile or its ports are closed,
counts as workers that could not be started: Ray tries again, and ray_faults.py ends the run after a few times. By itself Ray would
end the run at the first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
from ray.exceptions import RayActorError, RayTaskError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError


@dataclass
class GroupConfig(TorchConfig):
    """As Ray's; see this module."""

    @property
    def backend_cls(self) -> type[Group]:
        return Group


class Group(_TorchBackend):
    """Forms the process group of a set of workers."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        try:
            worker_group.execute(use_network_of_ray)
            super().on_start(worker_group, backend_config)
        except (RayActorError, RayTaskError) as error:
            worker_group._clear_state()  # or Ray keeps the places of these workers, and waits for others for ever
            raise WorkerGroupStartupFailedError(f"they could not connect to each other: {_why(error)}") from error


def _why(error: RayActorError | RayTaskError) -> str:
    if isinstance(error, RayActorError):
        return "one died meanwhile"
    return str(error.cause).strip().splitlines()[-1][:300]


def use_network_of_ray() -> None:
    """Gloo takes the address that the machine's name stands for, on Debian a loopback one; Ray's is reached by all.

    GLOO_SOCKET_IFNAME, where it is set, stays.
    """
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """The network interface that has an address, or None where no interface of this machine has it."""
    named = psutil.net_if_addrs().items()
    return next((name for name, found in named if any(entry.address == address for entry in found)), None)
