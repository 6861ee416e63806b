"""A connection to Ray for sharding and training: the cluster of RAY_ADDRESS, or a private one that lives as long as this process.

A private cluster takes no port that another cluster on the machine may want, listens on loopback, and asks for a token that only its
own processes know: whoever reaches a cluster without one can run code in it. Its workers die with the process that started it, even
with SIGKILL (two idle agents of Ray's then stay for a minute: they try to tell the dead head).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from taudl_dist.progress import log

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves the work beside any other process
    # A task on a machine that falls silent is known to be lost when gRPC's probe of its worker fails: after 5 + 2 minutes by Ray's
    # defaults, whatever the head found out before. Probes more often than once a minute end long tasks ("too many pings").
    "RAY_grpc_client_keepalive_time_ms": "60000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
_OBJECT_STORE_BYTES = 128 * 2**20
"""Enough for tasks and settings; the data goes through files."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextlib.contextmanager
def ray_session(*, cpus: int) -> Iterator[Any]:
    """Ray, connected: as this process already is, to the cluster of RAY_ADDRESS, or to a private one with `cpus` CPUs."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this process and those it starts
    import ray

    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as private:
        if not address:
            _look_for_the_token_again()
            private.enter_context(_loopback())
        place = address or private.enter_context(_private_cluster(cpus))
        ray.init(address=place, **_QUIET)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _private_cluster(cpus: int) -> Iterator[str]:
    """The address of a one-node cluster.

    `ray.init` would do the same, but gives its agent Ray's default port 52365 and no way to say otherwise; a cluster that somebody
    starts on this machine afterwards then takes no jobs.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    folder = tempfile.mkdtemp(prefix="taudl-", dir="/tmp")  # socket paths must stay under 107 bytes
    log(f"starting Ray with {cpus} CPU{'s' * (cpus > 1)}")
    node = None
    try:
        node = Node(
            RayParams(
                node_ip_address="127.0.0.1",
                num_cpus=cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                include_log_monitor=False,  # type: ignore[arg-type]  # declared as text
                no_monitor=True,
                dashboard_agent_listen_port=0,
                temp_dir=f"{folder}/ray",  # Ray opens it to everybody, but not the one above it
            ),
            head=True,
            shutdown_at_exit=False,  # would take over SIGTERM
        )
        yield node.gcs_address
    finally:
        if node:
            node.kill_all_processes(check_alive=False, allow_graceful=True)
        shutil.rmtree(folder, ignore_errors=True)


def _look_for_the_token_again() -> None:
    """Ray reads mode and token when it is imported, which may have been before they were set."""
    from ray import _raylet

    _raylet.Config.initialize("")  # type: ignore[attr-defined]  # compiled
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Inside, what Ray starts listens on the loopback alone, as it always does on a Mac; elsewhere it listens on all interfaces."""
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, was_enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was_enabled
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
