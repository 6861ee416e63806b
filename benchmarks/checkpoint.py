"""What a checkpoint costs training, and what it costs to go on from one.

`stall`: how long the loop stands still at a save: for the copy in memory, with the files written behind training, against waiting for
the files too. `resume`: from building a run's loop to the end of its first step, from a checkpoint at step 10 and at step 10^6: the
plan has no state to catch up with.

    python -m benchmarks.checkpoint [--model resnet18] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_dataset import make_dataset
from taudl_dist.batches import BatchLoader, BatchPlan
from taudl_dist.config import Config, resolve
from taudl_dist.dataset import Dataset, open_dataset
from taudl_dist.training import checkpoint
from taudl_dist.training.loop import Loop
from taudl_dist.training.run_folder import open_run
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

REPEATS = 5
FAR = 10**6


def stalls(config: Config, dataset: Dataset, folder: Path) -> dict[str, float]:
    """Milliseconds the loop stands still, and of a step beside the writing thread against one alone."""
    learner, plan = Learner.build(config, dataset, World()), BatchPlan(dataset, config)
    batches = list(BatchLoader(dataset, plan, rank=0, world_size=1, start=0, stop=2))
    saver = checkpoint.Saver(folder, attempt="aa", world=World(), identity={}, keep=1)
    times: dict[str, list[float]] = {"copy": [], "copy and write": [], "step": [], "step beside writing": []}

    def timed(name: str, start: float) -> None:
        times[name].append(time.perf_counter() - start)

    for number in range(REPEATS + 1):
        start = time.perf_counter()
        saver.begin(2 * number, backbone=learner.backbone, heads=learner.heads)
        timed("copy", start)
        start = time.perf_counter()
        train_step(learner, batches[number % 2], lr=1e-4)
        if not saver.is_written:
            timed("step beside writing", start)
        saver.complete()
        start = time.perf_counter()
        train_step(learner, batches[number % 2], lr=1e-4)
        timed("step", start)
        start = time.perf_counter()
        saver.begin(2 * number + 1, backbone=learner.backbone, heads=learner.heads)
        saver.complete()
        timed("copy and write", start)
    size = sum(path.stat().st_size for path in next(folder.iterdir()).iterdir())
    medians = {name: statistics.median(values[1:] or values) * 1e3 for name, values in times.items() if values}
    return {**medians, "checkpoint_mb": size / 1e6}


def resume_s(config: Config, step: int) -> float:
    """Seconds from a checkpoint of that step to the end of the step after it."""
    config = dataclasses.replace(config, out=f"{config.out}-{step}", stop_at=step + 1)
    dataset = open_dataset(config.data)
    run = open_run(config, dataset_digest=dataset.digest, workers=(1, 1))
    learner = Learner.build(config, dataset, World())
    identity = Loop(config, run, World(), stop_signal=lambda: 0, report=lambda _: None).identity
    saver = checkpoint.Saver(run.checkpoints, attempt="aa", world=World(), identity=identity, keep=1)
    saver.begin(step, backbone=learner.backbone, heads=learner.heads)
    saver.complete()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loop = Loop(config, run, World(), stop_signal=lambda: 0, report=lambda _: None)
        loader = BatchLoader(loop.dataset, loop.plan, rank=0, world_size=1, start=loop.start, stop=loop.start + 1)
        train_step(loop.learner, next(iter(loader)), lr=1e-4)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = make_dataset(folder / "data", cameras=6, tracklets=50, frames=6, heights=(60, 100))
        config = resolve({
            "data": str(folder / "data"), "out": str(folder / "run"), "steps": FAR + 10, "model": {"name": args.model},
            "batch": {"images": 48, "height": 64, "width": 32}, "tracking": {"uri": "none"},
        })  # fmt: skip
        result = stalls(config, dataset, folder / "checkpoints")
        result |= {"resume_10_s": resume_s(config, 10), "resume_far_s": resume_s(config, FAR)}
    if args.json:
        print(json.dumps(result))
        return
    print(
        f"a checkpoint of {result['checkpoint_mb']:.0f} MB stops training for {result['copy']:.0f} ms, with its files {result['copy and write']:.0f} ms"
    )
    print(
        f"a step takes {result['step']:.0f} ms, beside the writing thread {result.get('step beside writing', float('nan')):.0f} ms"
    )
    print(f"resuming takes {result['resume_10_s']:.2f} s at step 10 and {result['resume_far_s']:.2f} s at step {FAR:,}")


if __name__ == "__main__":
    main()
