"""What Ray and MLflow add to a training step: `python -m benchmarks.overhead`.

The same run twice at once, with one worker: in a plain process that tracks nothing, and as a Ray worker that MLflow follows. The two
take turns of a second, the other with all its processes stopped, so both meet the same machine. A step counts if it begins and ends
within a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.training.conftest import FLAGS, rows, tiny_dataset

TURN_S = 1.0
SETTLE = 10
"""Steps before the turns begin."""

SIZES = {
    "24 images of 32x16": [],
    "96 images of 128x64": ["--batch.images", 96, "--batch.height", 128, "--batch.width", 64],
}


@dataclass
class Run:
    """One of the two, and its turns."""

    folder: Path
    process: subprocess.Popen[bytes]
    turns: list[tuple[float, float]] = field(default_factory=list)

    def steps(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        return []

    def step_s(self) -> list[float]:
        """Durations of the steps within its turns."""
        ends = [row["time"] for row in rows(self.folder)]
        return [
            end - begin
            for begin, end in itertools.pairwise(ends)
            if any(since <= begin and end <= until for since, until in self.turns)
        ]


@contextlib.contextmanager
def stopped(run: Run) -> Iterator[None]:
    """While inside, nothing of a run is executed."""
    processes = run.processes()
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def start(folder: Path, *words: Any) -> Run:
    """`taudl train`, in its own process."""
    command = [sys.executable, "-m", "taudl_dist.cli", "train", "--out", str(folder), *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return Run(folder, subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))


def settle(run: Run) -> None:
    """Waits for its first steps."""
    while run.steps() < SETTLE:
        assert run.process.poll() is None, f"{run.folder} ended too early"
        time.sleep(0.01)


def take_turns(runs: tuple[Run, Run], steps: int) -> None:
    """Until one of them has done its steps; the first is the one that starts sooner."""
    quick, slow = runs
    settle(quick)
    with stopped(quick):
        settle(slow)
    while all(run.process.poll() is None and run.steps() < steps for run in runs):
        for own, other in (runs, runs[::-1]):
            with stopped(other):
                since = time.time()
                time.sleep(TURN_S)
                own.turns.append((since, time.time()))


def compare(folder: Path, data: Path, size: list[Any], steps: int) -> dict[str, Any]:
    """Milliseconds a step, and their ratio."""
    words = ["--data", data, *FLAGS, *size, "--steps", steps, "--checkpoint.every", 10 * steps, "--tracking.every", 10]
    plain = start(folder / "plain", *words, "--launcher", "process")
    tracked = start(folder / "ray", *words, "--launcher", "ray", "--tracking.uri", f"sqlite:///{folder}/mlflow.db")
    take_turns((plain, tracked), steps)
    for run in (plain, tracked):
        assert run.process.wait() == 0
    medians = [statistics.median(run.step_s()) for run in (plain, tracked)]
    means = [statistics.mean(run.step_s()) for run in (plain, tracked)]
    return {
        "steps": [len(run.step_s()) for run in (plain, tracked)],
        "median_ms": [1000 * value for value in medians],
        "mean_ms": [1000 * value for value in means],
        "ratio_of_medians": medians[1] / medians[0],
        "ratio_of_means": means[1] / means[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=[1500, 200], help="of each size")
    args = parser.parse_args()
    for (name, size), steps in zip(SIZES.items(), args.steps):
        with tempfile.TemporaryDirectory(prefix="taudl-overhead-") as place:
            data = tiny_dataset(Path(place) / "data")
            print(name, json.dumps(compare(Path(place), data, size, steps)), flush=True)


if __name__ == "__main__":
    main()
