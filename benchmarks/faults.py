"""What each fault costs a run on Ray, and what it does to the weights: `python -m benchmarks.faults --out faults.json`.

Every fault strikes a run of its own: a small network on a tiny dataset, two workers, each step slowed down so that there is time to
interfere. Seconds lost: the longest standstill. Weights are compared with a run of one process that nothing
happened to, as the largest difference of a tensor over that tensor's norm, and bit by bit with an undisturbed run of two workers where
the fault keeps their number. In fp32 the two undisturbed runs stand beside it: Adam magnifies the rounding between them as much.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.training.conftest import FLAGS, rows, state, tiny_dataset
from tests.training.faults import FaultyRun, machines, workers_below

STEPS = 60
"""Few, for rounding grows tenfold in about 40 of them, whatever happens."""

STRIKE = 13
"""Steps done when a fault strikes; checkpoints every 5."""


@dataclass(frozen=True)
class Place:
    """Where a run is, and how to start another in it."""

    folder: Path
    words: list[Any]

    def run(self, workers: str = "2", **options: Any) -> FaultyRun:
        words = [*self.words, "--workers", workers]
        return FaultyRun(self.folder / "run", words, **{"step_s": 0.3, **options})


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
]
"""Each fault, and whether it keeps the number of workers."""


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
    parser.add_argument("--only", nargs="+", default=[fault.__name__ for fault, _ in FAULTS])
    args = parser.parse_args()
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
    again.end()
    again.history = run.history + again.history
    return again


if __name__ == "__main__":
    main()
