"""What each fault costs a run on Ray, and what it does to the weights: `python -m benchmarks.faults --out faults.json`.

Every fault strikes a run of its own: a small network on a tiny dataset, two workers, each step slowed down so that there is time to
interfere. Seconds lost: the longest standstill. Weights are compared with a run of one process that nothing
happened to, as the largest difference of a tensor over that tensor's norm, and bit by bit with an undisturbed run of two workers where
the fault keeps their number. In fp32 the two undisturbed runs stand beside it: Adam magnifies the rounding between them as much.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taudl_dist import tracking
from taudl_dist.commands.sync import sync
from tests.cluster_hosts.hosts import BIN, Cluster, Host, Hosts, cluster, why_not
from tests.object_store import ObjectStore
from tests.training.conftest import FLAGS, rows, state, tiny_dataset
from tests.training.faults import FaultyRun, machines, workers_below

STEPS = 60
"""Few, for rounding grows tenfold in about 40 of them, whatever happens."""

STRIKE = 13
"""Steps done when a fault strikes; checkpoints every 5."""

CACHE_BYTES = 98304
"""The least that training takes here, so that steps have to ask the store."""


@dataclass(frozen=True)
class Place:
    """Where a run is, and how to start another in it."""

    folder: Path
    words: list[Any]

    def run(self, workers: str = "2", **options: Any) -> FaultyRun:
        words = [*self.words, "--workers", workers]
        return FaultyRun(self.folder / "run", words, **{"step_s": 0.3, **options})

    @property
    def shared(self) -> Path:
        """What all hosts see: runs and data."""
        return self.folder.parent

    def job(self, found: Cluster) -> FaultyRun:
        """A run of two workers as a job of a cluster of hosts."""
        return self.run(start=lambda words: found.submit(*words))


def worker_killed(place: Place) -> FaultyRun:
    """SIGKILL of a worker"""
    run = place.run()
    run.until_step(STRIKE)
    workers_below(run.process.pid)[-1].kill()
    return run.end()


def worker_killed_while_saving(place: Place) -> FaultyRun:
    """SIGKILL of all workers between the files of a checkpoint and its COMPLETE.json"""
    run = place.run(commit_s=1.0)
    run.until_step(STRIKE)
    run.until(run.half_a_checkpoint, "half a checkpoint")
    for worker in workers_below(run.process.pid):
        worker.kill()
    return run.end()


def worker_terminated(place: Place) -> FaultyRun:
    """SIGTERM to a worker"""
    run = place.run()
    run.until_step(STRIKE)
    workers_below(run.process.pid)[-1].send_signal(signal.SIGTERM)
    return run.end()


def driver_killed(place: Place) -> FaultyRun:
    """SIGKILL of the driver of a private cluster, --resume"""
    return _resumed(place.run(), None)


def driver_killed_on_a_cluster(place: Place) -> FaultyRun:
    """SIGKILL of a driver on a cluster that lives on, --resume"""
    with machines(2) as (cluster, _):
        return _resumed(place.run(address=cluster.address), cluster.address)


def machine_killed(place: Place) -> FaultyRun:
    """A machine goes, 1:2 workers"""
    with machines(2) as (cluster, (second,)):
        run = place.run("1:2", address=cluster.address)
        run.until_step(STRIKE)
        cluster.kill(second)
        return run.end()


def machine_silent(place: Place) -> FaultyRun:
    """A machine falls silent (frozen, no connection closed), 1:2 workers"""
    with machines(2) as (cluster, (second,)):
        run = place.run("1:2", address=cluster.address)
        run.until_step(STRIKE)
        frozen = cluster.freeze(second)
        try:
            return run.end()
        finally:
            for process in frozen:
                process.kill()


def machine_replaced(place: Place) -> FaultyRun:
    """A machine goes and another comes 5 s later, 2 workers"""
    with machines(2) as (cluster, (second,)):
        run = place.run(address=cluster.address)
        run.until_step(STRIKE)
        cluster.kill(second)
        time.sleep(5)
        cluster.add()
        return run.end()


def machine_added(place: Place) -> FaultyRun:
    """A machine comes, 1:2 workers"""
    with machines(1) as (cluster, _):
        run = place.run("1:2", address=cluster.address, step_s=1.0)
        run.until_step(STRIKE)
        cluster.add()
        run.until(lambda: "the cluster has room" in run.log(), "look for room")
        return run.end()


def machine_announced(place: Place) -> FaultyRun:
    """Notice of 40 s, then a machine goes, 1:2 workers"""
    with machines(2) as (cluster, (second,)):
        run = place.run("1:2", address=cluster.address, step_s=1.0)
        run.until_step(STRIKE)
        cluster.announce_end(second, in_s=40)
        time.sleep(40)
        cluster.kill(second)
        return run.end()


def host_cut_off(place: Place) -> FaultyRun:
    """A host's cable is pulled and another takes its place, 2 workers; a job of several hosts"""
    with cluster(3, [place.shared]) as (found, hosts):
        run = place.job(found)
        run.until_step(STRIKE)
        found.hosts.cut(next(host for host in hosts if _has_worker(host)))
        return run.end()


def host_killed(place: Place) -> FaultyRun:
    """A host loses power and another comes 5 s later, 2 workers; a job of several hosts"""
    with cluster(2, [place.shared]) as (found, hosts):
        run = place.job(found)
        run.until_step(STRIKE)
        hosts[0].kill()
        time.sleep(5)
        found.add()
        return run.end()


def head_lost(place: Place) -> FaultyRun:
    """The head restarts, its state in memory: the cluster starts anew, the job is submitted again with --resume"""
    with cluster(2, [place.shared]) as (found, hosts):
        run = place.job(found)
        run.until_step(STRIKE)
        for host in (found.head, *hosts):
            host.stop()
        run.process.wait()
        found.start_head()
        for host in hosts:
            found.join(host)
        again = FaultyRun(run.run, ["--resume"], step_s=0.3, start=lambda words: found.submit(*words))
        return _together(run, again.end())


def head_restarted(place: Place) -> FaultyRun:
    """The head restarts, its state on disk (RAY_gcs_storage=rocksdb), the driver on another host"""
    return _with_kept_state(place, RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=str(place.folder / "gcs"))


def head_restarted_with_redis(place: Place) -> FaultyRun:
    """The head restarts, its state in Redis on another host, the driver on a third"""
    return _with_kept_state(place, RAY_REDIS_ADDRESS="10.77.0.2:6390")


def tracking_down(place: Place) -> FaultyRun:
    """The tracking server is killed, and is back 10 s later; `taudl sync` for what the run did not live to send"""
    place.folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tracking_server(place.folder, port):
        run = FaultyRun(
            place.folder / "run",
            [*place.words, "--workers", "2", "--tracking.uri", f"http://127.0.0.1:{port}"],
            step_s=0.5,
        )
        run.until_step(STRIKE)
    time.sleep(10)
    with tracking_server(place.folder, port):
        run.end()
        assert sync(run.run), "taudl sync did not reach the server"
        where = json.loads((run.run / "run.json").read_text())["mlflow"]
        history = tracking.connect(where["uri"]).get_metric_history(where["run_id"], "train/loss")
    assert sorted(metric.step for metric in history) == list(range(STEPS)), "MLflow misses a step or holds one twice"
    return run


def disk_full(place: Place) -> FaultyRun:
    """The disk of the run folder is full at a checkpoint; room is made, --resume"""
    place.folder.mkdir()
    with small_disk(place.folder / "disk") as disk:
        run = FaultyRun(disk / "run", [*place.words, "--workers", "2"], step_s=0.3)
        run.until_step(STRIKE)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        said = run.process.communicate(timeout=120)[1]
        assert run.process.returncode == 1 and "No space left on device" in said, said
        assert "--resume" in said, said
        filler.unlink()
        again = FaultyRun(run.run, ["--resume"], step_s=0.3)
        again.end()
        again.run = shutil.copytree(disk / "run", place.folder / "run")
        return _together(run, again)


def store_refuses(place: Place) -> FaultyRun:
    """The dataset's object store refuses all requests for 20 s; --resume where that ends the run"""
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
    store = ObjectStore()
    try:
        words = [*place.words, "--data", store.upload(place.shared / "data", "data"), "--workers", "2"]
        words += ["--storage.cache-dir", place.folder / "cache", "--storage.cache-bytes", CACHE_BYTES]
        run = FaultyRun(place.folder / "run", words, step_s=0.3)
        run.until_step(STRIKE)
        store.fail("SlowDown", method=None)
        time.sleep(20)
        store.reset()
        if run.process.poll() is None:
            return run.end()
        said = run.process.communicate()[1]
        assert "check the network and the store" in said, said
        again = FaultyRun(run.run, ["--resume"], step_s=0.3)
        return _together(run, again.end())
    finally:
        store.stop()


FAULTS: list[tuple[Callable[[Place], FaultyRun], bool]] = [
    (worker_killed, True),
    (worker_killed_while_saving, True),
    (worker_terminated, True),
    (driver_killed, True),
    (driver_killed_on_a_cluster, True),
    (machine_replaced, True),
    (machine_killed, False),
    (machine_silent, False),
    (machine_added, False),
    (machine_announced, False),
    (host_cut_off, True),
    (host_killed, True),
    (head_lost, True),
    (head_restarted, True),
    (head_restarted_with_redis, True),
    (tracking_down, True),
    (disk_full, True),
    (store_refuses, True),
]
"""Each fault, and whether it keeps the number of workers."""

DEFAULT = [fault.__name__ for fault, _ in FAULTS if fault is not head_restarted_with_redis]
"""Redis is a program of its own, which few machines have."""

NEED_ROOT = {
    fault.__name__
    for fault in (host_cut_off, host_killed, head_lost, head_restarted, head_restarted_with_redis, disk_full)
}
"""They make hosts or mount a disk."""


def measure(fault: Callable[[Place], FaultyRun], keeps: bool, folder: Path, words: list[Any]) -> dict[str, Any]:
    """Strikes a run and compares what came out of it."""
    run = fault(Place(folder / fault.__name__, words))
    assert [row["step"] for row in rows(run.run)] == list(range(STEPS)), "a step is missing or stands twice"
    found = state(run.run)
    same = state(folder / "two")
    return {
        "fault": fault.__doc__,
        "lost_s": round(run.lost_s(), 1),
        "replayed": sum(run.replayed()),
        "workers": [attempt["world_size"] for attempt in run.attempts()],
        "difference": difference(found, state(folder / "one")),
        "same_bits": all(torch.equal(found[key], same[key]) for key in same) if keeps else None,
    }


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference of a weight over its tensor's norm; optimizer moments are left out."""
    shares = [0.0]
    for key, tensor in expected.items():
        norm = tensor.double().norm().item()
        if ":" not in key and norm > 1e-9:
            shares.append((found[key].double() - tensor.double()).norm().item() / norm)
    return max(shares)


def undisturbed(folder: Path, words: list[Any]) -> float:
    """One process and two workers; the difference of their weights."""
    FaultyRun(folder / "one", [*words, "--workers", "1"]).end()
    FaultyRun(folder / "two", [*words, "--workers", "2"]).end()
    return difference(state(folder / "two"), state(folder / "one"))


def table(results: list[dict[str, Any]]) -> str:
    """The results as markdown, a row a fault."""
    lines = [
        "| fault | precision | workers | seconds lost | steps replayed | largest difference to one process | same bits |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in results:
        workers = " -> ".join(map(str, row["workers"]))
        bits = {True: "yes", False: "no", None: "-"}[row["same_bits"]]
        lines.append(
            f"| {row['fault']} | {row['precision']} | {workers} | {row['lost_s']} | {row['replayed']} | {row['difference']:.1e} | {bits} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("faults.json"), help="JSON of all results; those in it already are kept"
    )
    parser.add_argument("--precision", nargs="+", default=["fp64", "fp32"])
    parser.add_argument(
        "--only", nargs="+", default=DEFAULT, metavar="FAULT", choices=[fault.__name__ for fault, _ in FAULTS]
    )
    args = parser.parse_args()
    reason = why_not()
    if reason and NEED_ROOT & set(args.only):
        parser.error(f"{', '.join(sorted(NEED_ROOT & set(args.only)))}: {reason}")
    if head_restarted_with_redis.__name__ in args.only and not shutil.which("redis-server"):
        args.only.remove(head_restarted_with_redis.__name__)
        print("head_restarted_with_redis is left out: redis-server is not installed")
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    for precision in args.precision:
        with tempfile.TemporaryDirectory(prefix="taudl-faults-") as place:
            folder = Path(place)
            data = tiny_dataset(folder / "data")
            words = ["--data", data, *FLAGS, "--steps", STEPS, "--checkpoint.every", 5, "--batch.groups-per-camera", 2]
            words += ["--precision", precision]
            control = undisturbed(folder, words)
            nothing = {"fault": "nothing", "lost_s": 0, "replayed": 0, "workers": [2], "difference": control}
            results.append({**nothing, "same_bits": True, "precision": precision, "cores": os.cpu_count()})
            for fault, keeps in FAULTS:
                if fault.__name__ in args.only:
                    results.append({**measure(fault, keeps, folder, words), "precision": precision})
                    print(table(results[-1:]), flush=True)
                    args.out.write_text(json.dumps(results, indent=1))
    print(table(results))


def _resumed(run: FaultyRun, address: str | None) -> FaultyRun:
    """Kills the driver, starts it again, and puts what was seen of both together."""
    run.until_step(STRIKE)
    run.process.kill()
    run.process.wait()
    again = FaultyRun(run.run, ["--resume"], step_s=0.3, address=address)
    return _together(run, again.end())


def _together(run: FaultyRun, again: FaultyRun) -> FaultyRun:
    """What was seen of a run that was started twice."""
    again.history = run.history + again.history
    return again


def _with_kept_state(place: Place, **head: str) -> FaultyRun:
    """Kills all processes of the head's host and starts it again, while a run goes on on others."""
    redis = head.get("RAY_REDIS_ADDRESS")
    with cluster(0, [place.shared], before_head=_start_redis if redis else None, **head) as (found, _):
        for _ in range(2):
            found.add()
        desk = found.add(cpus=0)
        run = place.run(start=lambda words: desk.follow(words, **found.access))
        run.until_step(STRIKE)
        found.head.stop()
        time.sleep(5)
        found.start_head()
        return run.end()


def _start_redis(hosts: Hosts) -> None:
    host = hosts.add()
    host.start(["redis-server", "--port", "6390", "--bind", host.address, "--protected-mode", "no"], log="redis.log")


@contextlib.contextmanager
def tracking_server(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server on loopback; killed when this is left."""
    command = [BIN / "mlflow", "server", "--port", port, "--host", "127.0.0.1", "--workers", 1]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", folder / "artifacts"]
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            [*map(str, command)],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes that it does not need
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < deadline and server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system for five checkpoints in fp64; needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "taudl", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _has_worker(host: Host) -> bool:
    return any("RayTrainWorker" in " ".join(process.cmdline()) for process in host.processes())


if __name__ == "__main__":
    main()
