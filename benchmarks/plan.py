"""The batch plan of a corpus of 5,000 cameras and 5 x 10^7 tracklets against its limits, in one run.

Writes a synthetic manifest (dataset.json with 100,000 shards, and the training index: 1.4 GB) into a temporary folder, opens it in
fresh processes, and prints each measure beside its limit: time to open, time of a step at step 0 and at step 10^6, resident memory
over 10^4 steps that read every column as a loader does, and whether each tracklet of each camera comes exactly once an epoch.

    python -m benchmarks.plan [--tracklets 50000000] [--cameras 5000] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taudl_dist.dataset.index import write_index
from taudl_dist.dataset.schema import DATASET_FILE, FORMAT, INDEX_FILE, SPLITS, VERSION

SHARDS_PER_CAMERA = 20
FAR_STEP = 10**6
OPENINGS = 5

LIMITS = {
    "open_s": 1.0,
    "first_step_ms": 2.0,
    "step_ms_median": 2.0,
    "step_ms_p99": 2.0,
    "step_cpu_ms_p99": 2.0,
    "far_step_ms_median": 2.0,
    "far_step_ms_p99": 2.0,
    "far_step_cpu_ms_p99": 2.0,
    "resident_mb": 300.0,
    "repeats": 0.0,
    "coverage_errors": 0.0,
}
"""Smaller is better; the last two are counts. CPU time beside wall time: the first is what a busy machine does not change."""


def camera_sizes(num_cameras: int, num_tracklets: int) -> np.ndarray:
    """Tracklets of each camera: as different as real ones, a few with none or one, of the sum asked for."""
    sizes = np.random.default_rng(0).lognormal(0, 0.7, num_cameras)
    sizes[:4] = 0
    sizes = (sizes / sizes.sum() * (num_tracklets - 3)).astype(np.int64)
    sizes[1:4] = 1
    sizes[-1] += num_tracklets - sizes.sum()
    return sizes


def write_manifest(folder: Path, sizes: np.ndarray) -> None:
    """dataset.json and the training index of a dataset without images."""
    num_tracklets, rng = int(sizes.sum()), np.random.default_rng(1)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    label = (np.arange(num_tracklets) - starts).astype(np.int32)
    camera = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    num_frames = rng.integers(4, 17, num_tracklets, dtype=np.int32)
    columns = {
        "label": label,
        "shard": camera * SHARDS_PER_CAMERA + rng.integers(0, SHARDS_PER_CAMERA, num_tracklets, dtype=np.int32),
        "offset": rng.integers(0, 2**18, num_tracklets) * 512,
        "length": num_frames.astype(np.int64) * 6144 + 1024,
        "num_frames": num_frames,
    }
    write_index(folder / INDEX_FILE, columns)
    names = [f"cam{number + 1:04d}" for number in range(len(sizes))]
    shards = [
        {"name": name, "bytes": 2**27, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in (f"{camera}-train-{number:05d}.tar" for camera in names for number in range(SHARDS_PER_CAMERA))
    ]
    info = {
        "format": FORMAT,
        "version": VERSION,
        "digest": hashlib.sha256(b"synthetic").hexdigest(),
        "cameras": [{"name": name, "num_tracklets": int(size), "num_frames": 0} for name, size in zip(names, sizes)],
        "splits": {split: {"tracklets": num_tracklets if split == "train" else 0, "frames": 0} for split in SPLITS},
        "shards": shards,
    }
    (folder / DATASET_FILE).write_text(json.dumps(info, indent=1))


def in_fresh_process(part: str, folder: Path) -> dict[str, Any]:
    """What the part of that name measures, alone in a process."""
    command = [sys.executable, "-m", "benchmarks.plan", "--part", part, "--folder", str(folder)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and CPU time of a call."""
    start, cpu_start = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - start) * 1e3, (time.thread_time() - cpu_start) * 1e3


def quantiles(times: list[tuple[float, float]], name: str) -> dict[str, float]:
    wall, cpu = np.array(times).T
    return {
        f"{name}_ms_median": float(np.median(wall)),
        f"{name}_ms_p99": float(np.percentile(wall, 99)),
        f"{name}_cpu_ms_p99": float(np.percentile(cpu, 99)),
    }


def resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def opening(folder: Path) -> dict[str, Any]:
    """Seconds to open (dataset.json, index, plan), the first step, and 500 steps from 0 and from 10^6."""
    import psutil

    from taudl_dist.batches import BatchPlan
    from taudl_dist.config import resolve
    from taudl_dist.dataset import open_dataset

    start = time.perf_counter()
    plan = BatchPlan(open_dataset(folder), resolve({"batch": {"frames": 4}}))
    open_s, since_start_s = time.perf_counter() - start, time.time() - psutil.Process().create_time()
    near = [milliseconds(lambda step=step: plan.groups(step)) for step in range(500)]
    far = [milliseconds(lambda step=step: plan.groups(FAR_STEP + step)) for step in range(500)]
    return {
        "open_s": open_s,
        "python_to_open_s": since_start_s,
        "first_step_ms": near[0][0],
        **quantiles(near, "step"),
        **quantiles(far, "far_step"),
        "slowest_step_ms": max(near + far)[0],
        "open_resident_mb": resident_mb(),
    }


def long_run(folder: Path, *, steps: int = 10_000) -> dict[str, Any]:
    """The highest resident memory seen over many steps, and tracklets or cameras that came twice in a batch."""
    from taudl_dist.batches import BatchPlan
    from taudl_dist.config import resolve

    plan = BatchPlan(folder, resolve({"batch": {"frames": 4}}))
    training = plan.dataset.training
    highest, repeats = 0.0, 0
    for step in range(FAR_STEP, FAR_STEP + steps):
        groups = plan.groups(step)
        rows = np.concatenate([group.rows for group in groups])
        for column in ("shard", "offset", "length"):
            training.take(column, rows)
        repeats += len(rows) - len(np.unique(rows)) + len(groups) - len({group.camera for group in groups})
        if step % 10 == 0:
            highest = max(highest, resident_mb())
    return {"long_steps": steps, "resident_mb": highest, "repeats": repeats}


def coverage(folder: Path, *, tracklets_per_camera: int = 64) -> dict[str, Any]:
    """Cameras of which some tracklet came more often than another by two or more, at any whole epoch of the median camera.

    A large batch of all cameras, so that the steps are few; the draws are the plan's own.
    """
    from taudl_dist.batches import BatchPlan
    from taudl_dist.config import resolve
    from taudl_dist.dataset import open_dataset

    dataset = open_dataset(folder)
    sizes = np.diff(dataset.training.camera_offsets)
    images = int((sizes > 0).sum()) * tracklets_per_camera * 4
    plan = BatchPlan(dataset, resolve({"batch": {"images": images, "frames": 4}}))
    steps = -(-int(np.median(sizes)) // tracklets_per_camera)
    seen = np.zeros(len(dataset.training), np.uint16)
    for step in range(steps):
        seen[plan.layout(step).rows] += 1  # rows do not repeat in a batch
    active = np.flatnonzero(sizes)
    bounds = dataset.training.camera_offsets[active]
    most, least = np.maximum.reduceat(seen, bounds), np.minimum.reduceat(seen, bounds)
    shown = np.add.reduceat(seen, bounds, dtype=np.int64)
    errors = (most - least > 1) | (shown != steps * np.minimum(sizes[active], tracklets_per_camera))
    return {"coverage_steps": steps, "coverage_cameras": len(active), "coverage_errors": int(errors.sum())}


def cold(folder: Path) -> dict[str, Any]:
    """An opening whose files the system had forgotten."""
    for name in (DATASET_FILE, INDEX_FILE):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())  # what is not on disk yet is not forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    measured = opening(folder)
    return {f"cold_{name}": measured[name] for name in ("open_s", "first_step_ms", "step_ms_median", "step_ms_p99")}


PARTS = {"opening": opening, "cold": cold, "long_run": long_run, "coverage": coverage}


def measure(folder: Path) -> dict[str, Any]:
    """All parts; of several openings the median of each number, and the slowest one apart."""
    openings = [in_fresh_process("opening", folder) for _ in range(OPENINGS)]
    result = {name: float(np.median([one[name] for one in openings])) for name in openings[0]}
    result["slowest_open_s"] = max(one["open_s"] for one in openings)
    result["slowest_first_step_ms"] = max(one["first_step_ms"] for one in openings)
    result["slowest_step_ms"] = max(one["slowest_step_ms"] for one in openings)
    for part in ("cold", "long_run", "coverage"):
        result |= in_fresh_process(part, folder)
    return result


def as_text(result: dict[str, Any]) -> str:
    """A line for each measure: the limit and the share of it that was used, where there is one."""
    lines = [f"{'':22} {'measured':>10} {'limit':>8} {'used':>7}"]
    for name, value in result.items():
        limit = LIMITS.get(name)
        bound = "" if limit is None else f"{limit:8.4g}"
        used = "" if not limit else f"{value / limit:7.1%}"
        lines.append(f"{name:22} {value:10.4g} {bound:>8} {used:>7}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Prints the measures; 1 if one is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=50_000_000)
    parser.add_argument("--cameras", type=int, default=5_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="taudl-plan-") as folder:
        write_manifest(Path(folder), camera_sizes(args.cameras, args.tracklets))
        result = {"cameras": args.cameras, "tracklets": args.tracklets, **measure(Path(folder))}
    print(json.dumps(result) if args.json else as_text(result))
    return int(any(result[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
