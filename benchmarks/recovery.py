"""Where the seconds go when a run on Ray starts, and when it loses a worker: `python -m benchmarks.recovery [--runs 3]`.

Two workers on a private cluster, a tiny dataset, one SIGKILL. Clocks of one machine, medians over runs. Each part ends with what it is
named after; a part that workers do at once ends with the last of them. `--set NAME=VALUE` changes the environment of the run, to
compare settings.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, this file is `taudl train` with a clock in it
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.training.conftest import FLAGS, tiny_dataset
from tests.training.faults import FaultyRun, workers_below

STRIKE = 13
STEPS = 40
STEP_S = 0.1

START = [
    ("python, checks, run folder", "prepared"),
    ("Ray", "ray"),
    ("Ray Train's controller", "group asked for"),
    ("worker processes and Ray's imports", "workers up"),
    ("process group", "group formed"),
    ("workers' own imports", "imports"),
    ("dataset opened", "dataset"),
    ("model, heads, plan", "loop"),
    ("first batch", "batch"),
    ("first step", "step"),
]
"""Parts of a start, and the event that each ends with."""

RECOVERY = [
    ("detection", "noticed"),
    ("the other workers ended", "workers gone"),
    ("Ray Train's controller", "group asked for"),
    *START[3:7],
    ("model, heads, checkpoint", "loop"),
    *START[8:],
]


BY_EACH = {event for _, event in START[3:]}
"""What both workers note; the controller and the driver note the rest."""


def parts(times: list[tuple[float, str]], since: float, table: list[tuple[str, str]]) -> dict[str, float]:
    """Seconds of each part."""
    found = {}
    for name, event in table:
        count = 2 if event in BY_EACH else 1
        until = sorted(when for when, what in times if what == event)[:count][-1]
        found[name] = until - since
        since = until
    return found


def measure(folder: Path, data: Path, changes: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """One run that loses a worker: its start and its recovery."""
    run_folder = folder / "run"

    def start(words: list[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, **changes, "RAY_AUTH_MODE": "disabled", "TAUDL_TIMES": str(folder / "times")}
        command = [sys.executable, __file__, *words[2:]]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    words = ["--data", data, *FLAGS, "--steps", STEPS, "--checkpoint.every", 5, "--workers", 2]
    began = time.time()
    run = FaultyRun(run_folder, words, step_s=STEP_S, start=start)
    run.until_step(STRIKE)
    killed = time.time()
    workers_below(run.process.pid)[-1].kill()
    run.end()
    times = [(entry[0], entry[1]) for entry in map(json.loads, (folder / "times").read_text().splitlines())]
    first = [entry for entry in times if entry[0] < killed]
    return parts(first, began, START), parts([entry for entry in times if entry[0] >= killed], killed, RECOVERY)


def table(title: str, runs: list[dict[str, float]]) -> str:
    """Medians as markdown, a row a part."""
    lines = [f"| {title} | s |", "|---|---|"]
    lines += [f"| {name} | {statistics.median(run[name] for run in runs):.2f} |" for name in runs[0]]
    return "\n".join([*lines, f"| all | {statistics.median(sum(run.values()) for run in runs):.2f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    changes = dict(entry.split("=", 1) for entry in args.set)
    results = []
    with tempfile.TemporaryDirectory(prefix="taudl-recovery-") as place:
        data = tiny_dataset(Path(place) / "data")
        for number in range(args.runs):
            folder = Path(place) / str(number)
            folder.mkdir()
            results.append(measure(folder, data, changes))
    print(table("start", [start for start, _ in results]))
    print()
    print(table("recovery from SIGKILL of a worker", [recovery for _, recovery in results]))


def note(event: str) -> None:
    """Writes down when something happened."""
    with open(os.environ["TAUDL_TIMES"], "a") as file:  # noqa: PTH123  # also called where this module is not imported
        file.write(json.dumps([time.time(), event]) + "\n")


def noting(call: Callable[..., Any], *, before: str = "", after: str = "", pause_s: float = 0.0) -> Callable[..., Any]:
    """The call, with a note of when it begins or has ended; each note is made once."""
    made: set[str] = set()

    def once(event: str) -> None:
        if event and event not in made:
            made.add(event)
            note(event)

    @functools.wraps(call)
    def noted(*args: Any, **options: Any) -> Any:
        once(before)
        time.sleep(pause_s)
        result = call(*args, **options)
        once(after)
        return result

    return noted


def _timed_train(pauses: str, words: list[str]) -> int:
    """`taudl train` that notes what happens when, in the driver, Ray's controller and the workers."""
    import ray.train.torch
    from ray.train.v2._internal.execution.callback import WorkerCallback, WorkerGroupCallback

    from taudl_dist.cli import main as taudl
    from taudl_dist.training import ray_train

    class Controller(WorkerGroupCallback):
        def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ARG002
            note("group asked for")

        def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
            if worker_group_status.errors:
                note("noticed")

        def after_worker_group_shutdown(self, worker_group_context: Any) -> None:  # noqa: ARG002
            note("workers gone")

    class Worker(WorkerCallback):
        def after_init_train_context(self) -> None:
            note("workers up")

    trainer = ray.train.torch.TorchTrainer

    def watched(*train: Any, run_config: Any, **settings: Any) -> Any:
        run_config.callbacks += [Controller(), Worker()]
        return trainer(*train, run_config=run_config, **settings)

    work, step_s = ray_train._work, json.loads(pauses)["step_s"]

    def timed_work(payload: dict[str, Any]) -> None:
        note("group formed")
        from taudl_dist.training import loop

        note("imports")
        loop.open_dataset = noting(loop.open_dataset, after="dataset")
        loop.Loop.__init__ = noting(loop.Loop.__init__, after="loop")
        loop.train_step = noting(loop.train_step, before="batch", after="step", pause_s=step_s)
        work(payload)

    ray_train._work, ray.train.torch.TorchTrainer = timed_work, watched  # type: ignore[misc]
    ray_train.prepare = noting(ray_train.prepare, after="prepared")
    ray_train._check_resources = noting(ray_train._check_resources, before="ray")
    return taudl(words)


if __name__ == "__main__":
    sys.exit(_timed_train(sys.argv[1], sys.argv[2:]) if "TAUDL_TIMES" in os.environ else main())
