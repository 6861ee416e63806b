"""`taudl demo`: every stage on synthetic video, each as the command a reader would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taudl_dist.commands import parse
from taudl_dist.errors import UserError
from taudl_dist.progress import log


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """The whole way on synthetic video: synth, shard, validate, train, evaluate, report.

    Each stage is a `taudl` command, printed before it runs. Stages that are already done in the folder are not repeated.
    Example: taudl demo --out demo
    """

    out: str = "demo"
    """Folder for everything the demo makes."""
    workers: int = 2
    """Processes for rendering, sharding and training."""
    seed: int = 7
    """Decides the synthetic world and the training run."""
    steps: int = 700
    """Training steps."""


def main(argv: Sequence[str]) -> int:
    """Runs the demo and prints its table and where to look next."""
    args = parse(DemoArgs, argv, command="demo")
    started = time.monotonic()
    out = Path(args.out)
    for purpose, stage in demo_stages(args):
        _run(purpose, stage)
    log("")
    print(f"report  {out / 'report.html'}")
    print(f"run     {out / 'run'}")
    store = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    print(f"mlflow  {store}   (look: {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {store})")
    print(f"time    {time.monotonic() - started:.0f} s")
    return 0


def demo_stages(args: DemoArgs) -> list[tuple[str, list[str]]]:
    """What each stage is for and its command line, in order."""
    out = Path(args.out)
    world, data, run = out / "world", out / "dataset", out / "run"
    workers, seed = str(args.workers), str(args.seed)
    stages = [
        (
            "people walk past cameras: videos, a tracker's output, and the truth for evaluation",
            ["synth", "--out", world, "--seed", seed, "--cameras", "4", "--people", "200", "--seconds", "340"],
        ),
        (
            "sparse space-time tracklets (SSTT), cropped and sharded",
            ["shard", "--videos", world / "videos", "--tracks", world / "tracks", "--out", data,
             "--interval-s", "auto", "--min-distance", "40", "--workers", workers],
        ),
        ("every byte of the dataset is read back", ["validate", data]),
        ("contact sheets of the tracklets", ["preview", data, "--out", out / "preview.html"]),
        (
            "TAUDL on batches decoded by DALI, through Ray Train",
            ["train", "--data", data, "--out", run, "--workers", workers, "--seed", seed, "--steps", str(args.steps),
             "--launcher", "ray", "--model", "small", "--batch.images", "64", "--batch.height", "128", "--batch.width", "64",
             "--optim.lr", "1e-3", "--optim.decay-start", "0.75", "--checkpoint.every", "100"],
        ),
        (
            "people never seen in training: TAUDL beside a colour histogram and the untrained network",
            ["evaluate", "--data", data, "--model", run, "--frames", "4", "--baselines", "--label-free",
             "--report", out / "report.html"],
        ),
    ]  # fmt: skip
    done = {
        "synth": world / "truth" / "truth.json",
        "preview": out / "preview.html",
        "train": run / "model.safetensors",
    }
    commands = [(purpose, [str(word) for word in stage]) for purpose, stage in stages]
    todo = [(purpose, stage) for purpose, stage in commands if not (stage[0] in done and done[stage[0]].exists())]
    return [(p, [*s, "--resume"] if s[0] == "train" and run.exists() else s) for p, s in todo]


def _run(purpose: str, stage: list[str]) -> None:
    log(f"\n# {purpose}\n$ taudl {shlex.join(stage)}")
    process = subprocess.Popen([sys.executable, "-m", "taudl_dist.cli", *stage])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the stage got it too, and may have a state to save
        process.wait()
        raise
    if code:
        raise UserError(f"`taudl {stage[0]}` ended with exit code {code}; its message stands above. "
                        "Run the demo again to go on from here")  # fmt: skip
