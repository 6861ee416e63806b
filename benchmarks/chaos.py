"""Sharding under SIGKILL: drivers and workers die at random points, and the digest is that of undisturbed runs.

Makes a synthetic corpus of more than 40 units and shards it undisturbed with 1 worker and with 4. Then it shards it again, killing now
the driver, now a Ray worker, after a random number of further units and a random moment, and starting the same command again until it
gets through. Three things must hold: the same digest, no unfinished file left, and no committed shard written a second time.

    python -m benchmarks.chaos [--kills 20] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

FLAGS = ["--interval-s", "3", "--min-distance", "40", "--max-frames", "8", "--crops-per-shard", "12"]
WORKERS = (1, 2, 4)
_PATIENCE_S = 300.0


@dataclass
class Log:
    """What was done to a run, and what it did twice."""

    kills: Counter[str] = field(default_factory=Counter)
    units_at_kill: list[int] = field(default_factory=list)
    runs: int = 0
    done_again: list[str] = field(default_factory=list)


def command(corpus: Path, out: Path, workers: int, flags: Sequence[str] = FLAGS) -> list[str]:
    """The shard command; every start of a run is this one."""
    places = ["--videos", str(corpus / "videos"), "--tracks", str(corpus / "tracks"), "--out", str(out)]
    return [sys.executable, "-m", "taudl_dist.cli", "shard", *places, *flags, "--workers", str(workers)]


def committed(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file of the units that are done: another number means it was written again."""
    found = {}
    for ok in (out / "shards").glob("*.ok.json"):
        unit = ok.name.removesuffix(".ok.json")
        for path in (ok, ok.with_name(f"{unit}.tar"), out / "fragments" / f"{unit}.parquet"):
            state = path.stat()
            found[path.name] = (state.st_ino, state.st_mtime_ns)
    return found


def disturb(
    corpus: Path, out: Path, *, kills: Sequence[str], workers: Sequence[int], seed: int, flags: Sequence[str] = FLAGS
) -> Log:
    """Shards under kills (`driver` or `worker`, in this order), then undisturbed to the end."""
    draw, log, todo = random.Random(seed), Log(), list(kills)
    done: dict[str, tuple[int, int]] = {}
    while True:
        with (out.parent / f"{out.name}.log").open("a") as said:
            run = subprocess.Popen(
                command(corpus, out, workers[log.runs % len(workers)], flags), stdout=said, stderr=said
            )
        log.runs += 1
        while todo and _reach(run, out, draw):
            victim = _victim(run, todo[0])
            if victim is None:
                victim = run.pid
            done |= committed(out)
            os.kill(victim, signal.SIGKILL)
            log.kills["driver" if victim == run.pid else "worker"] += 1
            log.units_at_kill.append(len(done) // 3)
            todo.pop(0)
            if victim == run.pid:
                break
        run.wait(timeout=_PATIENCE_S)
        log.done_again += [name for name, state in committed(out).items() if done.get(name, state) != state]
        done |= committed(out)
        if run.returncode == 0:
            return log
        if run.returncode > 0 and not _is_retried(out):
            raise SystemExit((out.parent / f"{out.name}.log").read_text()[-3000:])


def _reach(run: subprocess.Popen, out: Path, draw: random.Random) -> bool:
    """Waits for a random amount of further progress; False if the run ended first. Now and then it does not wait for any."""
    target = len(committed(out)) // 3 + draw.randrange(4)
    while len(committed(out)) // 3 < target and run.poll() is None:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 1.5 if target == 0 else 0.2))
    return run.poll() is None


def _victim(run: subprocess.Popen, kind: str) -> int | None:
    """The driver, or a worker that is cutting a unit; None if there is none: before or after all units."""
    if kind == "driver":
        return run.pid
    until = time.monotonic() + 10.0
    while time.monotonic() < until and run.poll() is None:
        processes = psutil.Process(run.pid).children(recursive=True)
        for process in processes:
            try:
                if process.name().startswith("ray::make_unit") or "data_tools.unit_process" in process.cmdline():
                    return process.pid
            except psutil.NoSuchProcess:
                continue
    return None


def _is_retried(out: Path) -> bool:
    """A unit whose worker was killed once too often is listed, and the next start tries it again."""
    return (out / "failures.json").exists()


def undisturbed(corpus: Path, out: Path, workers: int) -> tuple[dict, float]:
    """dataset.json and the seconds it took."""
    begin = time.perf_counter()
    subprocess.run(command(corpus, out, workers), check=True, capture_output=True)
    return json.loads((out / "dataset.json").read_text()), time.perf_counter() - begin


def verdict(out: Path, log: Log, expected: str) -> dict:
    """What must hold, as numbers."""
    info = json.loads((out / "dataset.json").read_text())
    return {
        "units": len(info["shards"]),
        "kills": dict(log.kills),
        "units done at each kill": log.units_at_kill,
        "starts": log.runs,
        "same digest": info["digest"] == expected,
        "unfinished files left": len(list(out.rglob("*.tmp-*"))),
        "committed files written again": len(log.done_again),
    }


def main() -> int:
    """Runs all of it and prints the verdict; exit code 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        synth = [
            "synth",
            "--out",
            str(folder / "world"),
            "--seed",
            "1",
            "--cameras",
            "4",
            "--people",
            "60",
            "--seconds",
            "160",
        ]
        subprocess.run([sys.executable, "-m", "taudl_dist.cli", *synth], check=True, capture_output=True)
        one, one_s = undisturbed(folder / "world", folder / "one", 1)
        four, four_s = undisturbed(folder / "world", folder / "four", 4)
        kinds = ["driver" if number % 2 == 0 else "worker" for number in range(args.kills)]
        log = disturb(folder / "world", folder / "killed", kills=kinds, workers=WORKERS, seed=args.seed)
        found = verdict(folder / "killed", log, one["digest"])
    found |= {
        "1 worker = 4 workers": one["digest"] == four["digest"],
        "seconds": {"1 worker": one_s, "4 workers": four_s},
    }
    if args.json:
        print(json.dumps(found))
    else:
        for fact, value in found.items():
            print(f"{fact:30} {value}")
    holds = found["same digest"] and found["1 worker = 4 workers"] and sum(log.kills.values()) == args.kills
    return 0 if holds and not found["unfinished files left"] and not found["committed files written again"] else 1


if __name__ == "__main__":
    sys.exit(main())
