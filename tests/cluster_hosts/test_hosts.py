"""Jobs on several hosts that are cut off, killed and added: `make test-cluster`, as root.

Sharding and training are submitted to the head's address with a token. What comes out must be what nothing happened to gives:
the digest of a dataset, every bit of the weights at an equal number of workers, and fp64's rounding at another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..training.conftest import FLAGS, assert_equal, rows, state, tiny_dataset
from ..training.faults import FaultyRun
from ..training.test_workers import assert_close
from .hosts import Cluster, Host, cluster, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "TAUDL_HOSTS" not in os.environ,
        reason="makes networks, which takes root and minutes, so only when asked for: make test-cluster",
    ),
]

STEPS = 40
TRAIN = [*FLAGS, "--precision", "fp64", "--optim.lr", "1e-5", "--steps", STEPS, "--checkpoint.every", 5]
"""As in ../training/test_faults.py: a rate at which rounding stays below 1e-12."""

SHARD = ["--interval-s", "2", "--max-frames", "8", "--crops-per-shard", "8"]


class Workplace:
    """A cluster, the hosts that work for it, and the folder that all see."""

    def __init__(self, found: Cluster, living: list[Host], shared: Path) -> None:
        self.cluster, self.living, self.shared = found, living, shared
        self.data = tiny_dataset(shared / "tiny")

    def at_least(self, count: int) -> None:
        while len(self.living) < count:
            self.living.append(self.cluster.add())

    def train(self, name: str, *words: Any, **options: Any) -> FaultyRun:
        return FaultyRun(self.shared / name, ["--data", self.data, *TRAIN, *words], start=self.submit, **options)

    def submit(self, words: list[str]) -> subprocess.Popen[str]:
        return self.cluster.submit(*words)

    def cut(self) -> None:
        self.cluster.hosts.cut(self.living.pop(0))

    def kill(self) -> None:
        self.living.pop(0).kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    reason = why_not()
    if reason:
        pytest.fail(f"no hosts: {reason}", pytrace=False)
    shared = tmp_path_factory.mktemp("shared")
    with cluster(2, [shared]) as (found, hosts):
        yield Workplace(found, hosts, shared)


@pytest.fixture(scope="module")
def undisturbed(place: Workplace) -> Path:
    """Two processes that torchrun started on this machine, a thread each as on the hosts."""
    out = place.shared / "undisturbed"
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    torchrun = ["taskset", "-c", cores, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    words = ["-m", "taudl_dist.cli", "train", "--data", place.data, *TRAIN, "--out", out]
    subprocess.run([*torchrun, *map(str, words)], check=True, capture_output=True)
    return out


def test_a_job_with_another_token_is_refused(place: Workplace) -> None:
    other = place.shared / "other"
    other.write_text("0" * 64)
    job = place.cluster.submit("python", "-c", "print('ran')", token=other)
    said = job.communicate(timeout=60)[0]
    assert job.returncode != 0
    assert "Invalid authentication token" in said
    assert "ran\n" not in said


def test_sharding(place: Workplace) -> None:
    place.at_least(2)
    world = place.shared / "world"
    synth = ["synth", "--out", world, "--seed", "1", "--cameras", "4", "--people", "24", "--seconds", "40"]
    _taudl(*synth)
    where = ["--videos", world / "videos", "--tracks", world / "tracks", *SHARD]
    _taudl("shard", *where, "--out", place.shared / "expected")
    out = place.shared / "sharded"
    job = place.submit(["python", "jobs/shard.py", *map(str, where), "--out", str(out), "--workers", "2"])

    def units() -> int:
        return len(list((out / "shards").glob("*.ok.json")))

    _until(lambda: units() >= 3, job)
    place.cut()
    place.living.append(place.cluster.add())
    before = units()
    _until(lambda: units() > before + 3, job)
    place.kill()
    said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    found, expected = (json.loads((path / "dataset.json").read_text()) for path in (out, place.shared / "expected"))
    assert found["digest"] == expected["digest"]
    assert len(found["shards"]) > before + 3
    assert not list(out.rglob("*.tmp-*"))


def test_training_with_two_workers(place: Workplace, undisturbed: Path) -> None:
    """A host is cut off where another is there to take its place; then one is killed, and another comes later."""
    place.at_least(3)
    run = place.train("two", "--workers", "2", step_s=0.2)
    run.until_step(8)
    place.living.sort(key=lambda host: not _has_worker(host))
    place.cut()
    run.until_attempt(2)
    run.until_step(run.attempts()[1]["from_step"] + 7)
    place.kill()
    time.sleep(2)
    place.at_least(2)
    run.end()
    assert [attempt["world_size"] for attempt in run.attempts()] == [2, 2, 2]
    assert [row["step"] for row in rows(run.run)] == list(range(STEPS))
    assert_equal(state(run.run), state(undisturbed))


def test_training_with_one_worker_or_two(place: Workplace, undisturbed: Path) -> None:
    """A host is cut off and the other goes on alone, until one comes."""
    place.at_least(2)
    run = place.train("one-or-two", "--workers", "1:2", step_s=1.5)  # a host takes half a minute to come
    run.until_step(8)
    place.cut()
    run.until_attempt(2)
    place.at_least(2)
    run.end()
    assert [attempt["world_size"] for attempt in run.attempts()] == [2, 1, 2]
    assert sum(run.replayed()) <= 5  # of the cut; growing costs none
    assert_close(run.run, undisturbed, 1e-12)


def _has_worker(host: Host) -> bool:
    return any("RayTrainWorker" in " ".join(process.cmdline()) for process in host.processes())


def _taudl(*words: Any) -> None:
    subprocess.run([sys.executable, "-m", "taudl_dist.cli", *map(str, words)], check=True, capture_output=True)


def _until(condition: Callable[[], bool], job: subprocess.Popen[str], *, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[0]
        time.sleep(0.02)
