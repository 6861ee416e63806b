"""Runs that things are taken from: `taudl train` on Ray in a process of its own, and machines that come and go.

Shared by test_faults.py and benchmarks/faults.py. Started as a script, this file is `taudl train` with pauses in its steps, so that
there is time to interfere, and with a shorter look-out for machines.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

HEALTH = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 5,
}
"""How a cluster notices lost machines; see cluster/README.md."""


class FaultyRun:
    """A training run in a process of its own, and what can be seen of it from outside.

    Args:
        run: the run folder.
        words: what stands after `taudl train`.
        step_s: pause in every step.
        commit_s: pause between the files of a checkpoint and its COMPLETE.json.
        resize_s: seconds between two looks for more room.
        connect_s: pause before the first workers form a group; a file `connecting` in the run folder tells of it.
        address: of a cluster; a private one by default.
        start: starts a command line that begins with `python` somewhere else, for instance as a job of a cluster.
    """

    def __init__(
        self,
        run: Path,
        words: list[Any],
        *,
        step_s: float = 0.0,
        commit_s: float = 0.0,
        resize_s: float = 5.0,
        connect_s: float = 0.0,
        address: str | None = None,
        start: Callable[[list[str]], subprocess.Popen[str]] | None = None,
    ) -> None:
        self.run = run
        pauses = json.dumps({"step_s": step_s, "commit_s": commit_s, "resize_s": resize_s, "connect_s": connect_s})
        command = [pauses, "train", *map(str, words), "--out", str(run)]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        if address:
            environment["RAY_ADDRESS"] = address
        if start:
            self.process = start(["python", str(Path(__file__).relative_to(Path(__file__).parents[2])), *command])
        else:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *command],
                env=environment,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        self.history: list[tuple[float, int]] = []
        """Times at which the number of steps in metrics.jsonl was seen to change."""
        threading.Thread(target=self._watch, daemon=True).start()

    def steps(self) -> int:
        """Steps in metrics.jsonl."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def attempts(self) -> list[dict[str, Any]]:
        """Starts of the workers, as run.json tells."""
        path = self.run / "run.json"
        return json.loads(path.read_text())["attempts"] if path.exists() else []

    def log(self) -> str:
        path = self.run / "train.log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], Any], what: str, *, timeout_s: float = 180) -> None:
        """Waits for something to become true while the run goes on."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"no {what}:\n{self.log()}\n{self.process.communicate()}")
            time.sleep(0.005)

    def until_step(self, step: int) -> None:
        self.until(lambda: self.steps() >= step, f"step {step}")

    def until_attempt(self, number: int) -> None:
        self.until(lambda: len(self.attempts()) >= number, f"attempt {number}")

    def half_a_checkpoint(self) -> Path | None:
        """A checkpoint that has files and no COMPLETE.json."""
        folders = (self.run / "checkpoints").glob("step-*")
        return next((path for path in folders if any(path.iterdir()) and not (path / "COMPLETE.json").exists()), None)

    def end(self, *, timeout_s: float = 300) -> FaultyRun:
        """This run, once it has ended well."""
        said = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, f"{self.log()}\n{said}"
        return self

    def is_asked(self) -> bool:
        """Whether Ray's controller waits for the workers to save."""
        return (self.run / "request").exists()

    def replayed(self) -> list[int]:
        """Steps that were computed again, for each time the workers were started again."""
        counts = [count for _, count in self.history]
        return [before - after for before, after in itertools.pairwise(counts) if after < before]

    def lost_s(self) -> float:
        """Longest time in seconds in which the run did not get further than it had been."""
        furthest, advances = 0, []
        for when, count in self.history:
            if count > furthest:
                furthest = count
                advances.append(when)
        return max((after - before for before, after in itertools.pairwise(advances)), default=0.0)

    def _watch(self) -> None:
        while self.process.poll() is None:
            count = self.steps()
            if not self.history or self.history[-1][1] != count:
                self.history.append((time.time(), count))
            time.sleep(0.02)


def workers_below(pid: int) -> list[psutil.Process]:
    """Ray Train's workers among the descendants of a process, in no order."""
    below = psutil.Process(pid).children(recursive=True)
    return [child for child in below if "RayTrainWorker" in " ".join(child.cmdline())]


class Machines:
    """A Ray cluster of pretended machines with one CPU each on this one; the first holds the head and the driver.

    As ray.cluster_utils.Cluster, which would tell every other program of this user to join it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._head = self._start(head=True, include_dashboard=False, _system_config=HEALTH)
        self.address: str = self._head.gcs_address
        self._others: list[Any] = []

    def add(self) -> Any:
        machine = self._start(head=False, gcs_address=self.address, redis_address=self._head.redis_address)
        self._others.append(machine)
        return machine

    def kill(self, machine: Any) -> None:
        """As when the power goes."""
        machine.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._others.remove(machine)

    def close(self) -> None:
        for machine in [*self._others, self._head]:
            machine.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def _start(self, *, head: bool, **parameters: Any) -> Any:
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        parameters |= {
            "num_cpus": 1,
            "object_store_memory": 80 * 2**20,
            "dashboard_agent_listen_port": 0,
            "include_log_monitor": False,
            "no_monitor": True,
            "temp_dir": self._folder,
        }
        return Node(RayParams(**parameters), head=head, shutdown_at_exit=False)

    def pid(self, machine: Any) -> int:
        """Of the process that all workers there descend from."""
        return machine.all_processes["raylet"][0].process.pid

    def freeze(self, machine: Any) -> list[psutil.Process]:
        """As when the network goes: nothing answers, and no connection is closed."""
        raylet = psutil.Process(self.pid(machine))
        processes = [raylet, *raylet.children(recursive=True)]
        for process in processes:
            process.suspend()
        return processes

    def announce_end(self, machine: Any, *, in_s: float) -> None:
        """The notice a cloud gives before it takes a machine back."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + in_s) * 1000)
        accepted, message = GcsClient(address=self.address).drain_node(machine._node_id, reason, "test", deadline_ms)
        assert accepted, message


@contextlib.contextmanager
def machines(count: int) -> Iterator[tuple[Machines, list[Any]]]:
    """A cluster of `count` machines, and those beside the first."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    folder = tempfile.mkdtemp(prefix="tf-", dir="/tmp")
    found = Machines(folder)
    try:
        yield found, [found.add() for _ in range(count - 1)]
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def _main(pauses: str, words: list[str]) -> int:
    from taudl_dist.cli import main
    from taudl_dist.training import ray_group, ray_train

    waits = json.loads(pauses)
    connecting = Path(words[words.index("--out") + 1]) / "connecting"
    work = ray_train._work

    def slow_work(payload: dict[str, Any]) -> None:
        import time

        from taudl_dist.training import checkpoint, loop

        def after(pause_s: float, call: Callable[..., Any]) -> Callable[..., Any]:
            def paused(*args: Any, **options: Any) -> Any:
                time.sleep(pause_s)
                return call(*args, **options)

            return paused

        loop.train_step = after(waits["step_s"], loop.train_step)
        checkpoint.write_json = after(waits["commit_s"], checkpoint.write_json)
        work(payload)

    class SlowGroup(ray_group.Group):
        def on_start(self, *group: Any) -> None:
            if not connecting.exists():
                connecting.touch()
                time.sleep(waits["connect_s"])
            super().on_start(*group)

    class SlowGroupConfig(ray_group.GroupConfig):
        @property
        def backend_cls(self) -> type[ray_group.Group]:
            return SlowGroup

    ray_train._work = slow_work
    if waits["connect_s"]:
        ray_group.GroupConfig = SlowGroupConfig  # type: ignore[misc]
    ray_train.RESIZE_INTERVAL_S = waits["resize_s"]
    return main(words)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(_main(sys.argv[1], sys.argv[2:]))
