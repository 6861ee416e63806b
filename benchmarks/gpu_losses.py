"""The losses on a device: CCTA against the released code's loop at three sizes, and heads of few and of many cameras."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import ccta
from benchmarks.gpu_dataset import make_dataset
from benchmarks.gpu_measure import Setting, Timing, measure, tidy
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import make_batch
from taudl_dist.batches import BatchPlan
from taudl_dist.config import resolve
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

CCTA, HEADS = "ccta", "heads"
HEADS_GOAL = 1.1


def run_ccta(report: Report, setting: Setting) -> None:
    """Forward and backward of Eq. 3 over D = 2,048; time and the memory it adds."""
    loops: list[tuple[int, float]] = []
    for count in setting.ccta_tracklets:
        name = f"{CCTA}: {count} tracklets"
        if not report.has_time(name):
            continue
        with report.attempt(name):
            features, cameras = ccta.tracklets(count, str(setting.device))
            ours = _gradient(report, setting, ccta.ccta_vectorised, features, cameras, name="vectorised")
            expected = _extrapolate(loops, count)
            if expected > setting.loop_limit_s:
                reason = (
                    f"about {expected:.0f} s expected from smaller sizes, the limit is {setting.loop_limit_s:.0f} s"
                )
                report.skip(f"{name}: loop", reason)
            else:
                loop = _gradient(report, setting, ccta.ccta_by_loop, features, cameras, name="loop", repeats=1)
                loops.append((count, loop.seconds))
                what = f"{count} tracklets: loop over vectorised, time"
                report.add(part=CCTA, name=what, value=loop.seconds / ours.seconds)
        tidy(setting.device)


def _extrapolate(loops: list[tuple[int, float]], count: int) -> float:
    """Seconds of the loop at `count`, by the power law of its last two sizes; at least in proportion. 0 if there are none yet."""
    if not loops:
        return 0.0
    size, seconds = loops[-1]
    power = 1.0
    if len(loops) > 1:
        before, faster = loops[-2]
        power = max(1.0, math.log(seconds / faster) / math.log(size / before))
    return seconds * (count / size) ** power


def _gradient(
    report: Report,
    setting: Setting,
    loss: Callable[..., torch.Tensor],
    features: torch.Tensor,
    cameras: torch.Tensor,
    *,
    name: str,
    repeats: int | None = None,
) -> Timing:
    timing = measure(lambda: ccta.gradient_of(loss, features, cameras), setting, repeats=repeats)
    what = f"{len(features)} tracklets, {name}"
    report.add(part=CCTA, name=what, value=1e3 * timing.seconds, unit="ms")
    if timing.peak_bytes is not None:
        report.add(part=CCTA, name=f"{what}: peak memory", value=timing.peak_bytes / 1e9, unit="GB")
    return timing


def run_heads(report: Report, setting: Setting) -> None:
    """A step of few and of many cameras at equal batch and equal labels a camera; the network is small, so that heads count."""
    timings = {}
    for cameras in (setting.few_cameras, setting.many_cameras):
        with report.attempt(f"{HEADS}: {cameras} cameras"), tempfile.TemporaryDirectory() as folder:
            timings[cameras] = _heads(report, setting, cameras, Path(folder) / "dataset")
        tidy(setting.device)
    if len(timings) > 1:
        few, many = timings.values()
        what = f"a step of {setting.many_cameras} cameras over one of {setting.few_cameras}, time"
        value = many.seconds / few.seconds
        report.add(part=HEADS, name=what, value=value, rule="goal <=", limit=HEADS_GOAL)


def _heads(report: Report, setting: Setting, cameras: int, folder: Path) -> Timing:
    settings: dict[str, Any] = {
        "model": {"name": "small", "feature_dim": 2048},
        "batch": {"images": setting.images, "cameras": setting.images // 8, "height": 32, "width": 16},
    }
    config = resolve(settings)
    dataset = make_dataset(folder, cameras=cameras, tracklets=20, frames=4, heights=(0, 0))
    learner = Learner.build(config, dataset, World(device=setting.device))
    plan = BatchPlan(dataset, config)
    batches = [make_batch(plan, setting.device, step=step) for step in range(8)]
    turns = iter(range(2**31))
    timing = measure(lambda: train_step(learner, batches[next(turns) % 8], lr=1e-4).tolist(), setting)
    what = f"a step of {cameras} cameras, {config.batch.cameras} of them in the batch"
    report.add(part=HEADS, name=what, value=1e3 * timing.seconds, unit="ms")
    report.add(part=HEADS, name=f"{cameras} cameras: heads and moments", value=learner.heads.num_bytes / 1e9, unit="GB")
    return timing
