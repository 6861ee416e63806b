"""64 and 1,024 ranks in code: plan, cache and traffic of a corpus of 5,000 cameras and 5 x 10^7 tracklets; no network, no images.

Counted from real plans: bytes that a rank sends and reads in a step, images and heads a rank has, what a rank reads again in the next
epoch, and the time the plan itself takes here. Assumed, and to be set: images a second of a GPU, bandwidth of a rank, latency of a
message, and that the sum of the backbone's gradient hides behind the backward pass (two thirds of the compute).

Weak scaling: 96 images a rank (4 cameras x 6 tracklets x 4 frames), so that the batch grows with the ranks. Strong scaling: one batch
of 1,024 cameras x 6 tracklets x 4 frames for any number of them.

    python -m benchmarks.scale [--images-per-second 2500] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.plan import FAR_STEP, SHARDS_PER_CAMERA, camera_sizes
from taudl_dist.batches import BatchPlan
from taudl_dist.batches.forecast import forecast
from taudl_dist.config import Config, resolve
from taudl_dist.dataset import TrainingIndex
from taudl_dist.parallel.traffic import all_gather_bytes

CAMERAS_PER_RANK, TRACKLETS_PER_CAMERA, FRAMES = 4, 6, 4
STRONG_CAMERAS = 1024
WEAK_RANKS, STRONG_RANKS = (1, 8, 64, 256, 1024), (64, 256, 1024)
GIGABITS = (100, 400)
RANKS_PER_NODE = 8
BUCKET_BYTES = 25e6
"""DDP sums the gradient in pieces of this size."""
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is assumed of one rank."""

    images_per_second: float
    """Forward and backward of ResNet-50 at 256x128."""
    latency_s: float
    """Of one message, of which a collective takes log2 of the ranks one after another."""


def corpus(sizes: np.ndarray) -> Any:
    """A dataset in memory with the columns that a plan looks at; 4 to 16 images of about 6 kB a tracklet."""
    total, rng = int(sizes.sum()), np.random.default_rng(1)
    num_frames = rng.integers(4, 17, total, dtype=np.int32)
    shard = np.repeat(np.arange(len(sizes), dtype=np.int32) * SHARDS_PER_CAMERA, sizes)
    training = TrainingIndex(
        camera_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        label=num_frames,  # never read
        shard=shard + rng.integers(0, SHARDS_PER_CAMERA, total, dtype=np.int32),
        offset=np.zeros(0, np.int64),
        length=num_frames.astype(np.int64) * 6144 + 1024,
        num_frames=num_frames,
    )
    names = [f"cam{number + 1:04d}" for number in range(len(sizes))]
    return SimpleNamespace(digest="0" * 64, cameras=names, training=training)


def settings(cameras: int, *, steps: int = 100_000) -> Config:
    images = cameras * TRACKLETS_PER_CAMERA * FRAMES
    return resolve(
        {"steps": steps, "recipe": "official-code", "batch": {"images": images, "cameras": cameras, "frames": FRAMES}}
    )


def simulate(dataset: Any, *, cameras: int, ranks: int, machine: Machine) -> dict[str, Any]:
    """One number of ranks: counted bytes and images, and the shares of time that follow."""
    config = settings(cameras)
    plan = BatchPlan(dataset, config)
    summary = forecast(plan, config, workers=ranks, steps_per_second=1.0)
    sent = summary["traffic"]["bytes_per_step"]
    row = 2 * summary["images_per_worker"] * 2048 * 4  # features of all images to all ranks, and the gradient back
    compute_s = summary["images_per_worker"] / machine.images_per_second
    result = {
        "ranks": ranks,
        "images": round(summary["images_per_step"]),
        "images_a_rank": summary["images_per_worker"],
        "compute_ms": compute_s * 1e3,
        "plan_ms": plan_ms(plan, ranks),
        "backbone_MB": sent["backbone"] / 1e6,
        "means_MB": sent["means"] / 1e6,
        "features_MB": sent["features"] / 1e6,
        "statistics_MB": sent["statistics"] / 1e6,
        "all_MB": sum(sent.values()) / 1e6,
        "all_features_MB": all_gather_bytes(row, ranks) / 1e6,
        "read_MB": summary["bytes_per_step"] / ranks / 1e6,
        "read_MB_a_second": summary["bytes_per_step"] / ranks / compute_s / 1e6,
        "busiest_owner": summary["head_images_busiest_over_mean"],
        "heads_GB": summary["head_bytes_per_worker"] / 1e9,
    }
    gathered = {"backbone": sent["backbone"], "features": all_gather_bytes(row, ranks)}
    for gigabits in GIGABITS:
        result[f"share_{gigabits}"] = network_share(sent, gigabits=gigabits, compute_s=compute_s)
        result[f"efficiency_{gigabits}"] = efficiency(
            sent, ranks=ranks, gigabits=gigabits, compute_s=compute_s, machine=machine
        )
        result[f"gathered_efficiency_{gigabits}"] = efficiency(
            gathered, ranks=ranks, gigabits=gigabits, compute_s=compute_s, machine=machine
        )
    return result


def network_share(sent: dict[str, float], *, gigabits: float, compute_s: float) -> float:
    """Share of a step's time that the bytes take on the wire, if nothing overlaps and messages cost nothing."""
    wire_s = sum(sent.values()) * 8 / (gigabits * 1e9)
    return wire_s / (wire_s + compute_s)


def efficiency(sent: dict[str, float], *, ranks: int, gigabits: float, compute_s: float, machine: Machine) -> float:
    """Compute over compute and what of the network is not hidden: the backbone's sum hides behind the backward pass."""
    seconds = {name: size * 8 / (gigabits * 1e9) for name, size in sent.items()}
    turns = math.ceil(math.log2(ranks))
    backbone_s = seconds.pop("backbone") + 2 * turns * math.ceil(sent["backbone"] / BUCKET_BYTES) * machine.latency_s
    others_s = sum(seconds.values()) + 2 * turns * len(seconds) * machine.latency_s
    return compute_s / (compute_s + others_s + max(0.0, backbone_s - BACKWARD_SHARE * compute_s))


def plan_ms(plan: BatchPlan, ranks: int) -> float:
    """CPU time of one rank's share of a step, the middle of several."""
    times = []
    for step in range(FAR_STEP, FAR_STEP + 7):
        start = time.thread_time()
        plan.share(step, rank=ranks // 2, world_size=ranks)
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1e3


def read_again(ranks: int, *, cameras: int, num_cameras: int = 5000, tracklets: int = 48) -> dict[str, Any]:
    """Reads of the second epoch that the same rank, or one of its node, did in the first; and if cameras came in a random order.

    A corpus with few tracklets a camera, so that epochs are short; caches that hold all that was read.
    """
    dataset = corpus(np.full(num_cameras, tracklets))
    steps = num_cameras * tracklets // (cameras * TRACKLETS_PER_CAMERA)
    plan = BatchPlan(dataset, settings(cameras, steps=2 * steps))
    rng, total = np.random.default_rng(0), len(dataset.training)
    orders = {"": np.arange, "shuffled_": rng.permutation}
    # the rank that read each tracklet last
    last = {name: np.full(total, -1) for name in orders}
    hits = {f"{name}{unit}": 0 for name in orders for unit in ("rank", "node")}
    for step in range(2 * steps):
        rows = plan.layout(step).rows.reshape(cameras, -1)
        reader = np.repeat(np.arange(cameras) * ranks // cameras, TRACKLETS_PER_CAMERA)
        for name, order in orders.items():
            own = rows[order(cameras)].ravel()
            if step >= steps:
                before = last[name][own]
                hits[f"{name}rank"] += int((before == reader).sum())
                hits[f"{name}node"] += int((before // RANKS_PER_NODE == reader // RANKS_PER_NODE).sum())
            last[name][own] = reader
    reads = steps * cameras * TRACKLETS_PER_CAMERA
    return {"ranks": ranks, "cameras_a_step": cameras} | {name: count / reads for name, count in hits.items()}


def bounds(row: dict[str, Any], machine: Machine) -> dict[str, float]:
    """Where scaling bends, from the row of one number of ranks: the formulas, not the simulation.

    Above so many ranks at these images a rank, means are more bytes than the backbone's gradient; below so many images a rank, the
    gradient's sum no longer hides behind the backward pass.
    """
    ranks = row["ranks"]
    gradient_bytes = row["backbone_MB"] * 1e6 * ranks / (ranks - 1)
    tracklet_bytes = row["means_MB"] * 1e6 / (ranks - 1)
    result = {"ranks_where_means_outweigh_backbone": gradient_bytes / tracklet_bytes}
    for gigabits in GIGABITS:
        seconds = gradient_bytes * 8 / (gigabits * 1e9)
        result[f"images_a_rank_that_hide_backbone_{gigabits}"] = seconds / BACKWARD_SHARE * machine.images_per_second
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images-per-second", type=float, default=2500.0, help="of one GPU, assumed")
    parser.add_argument("--latency-us", type=float, default=10.0, help="of one message, assumed")
    parser.add_argument("--tracklets", type=int, default=50_000_000)
    parser.add_argument("--cameras", type=int, default=5_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    machine = Machine(images_per_second=args.images_per_second, latency_s=args.latency_us * 1e-6)
    dataset = corpus(camera_sizes(args.cameras, args.tracklets))
    weak = [simulate(dataset, cameras=CAMERAS_PER_RANK * ranks, ranks=ranks, machine=machine) for ranks in WEAK_RANKS]
    strong = [simulate(dataset, cameras=STRONG_CAMERAS, ranks=ranks, machine=machine) for ranks in STRONG_RANKS]
    again = [read_again(ranks, cameras=cameras) for ranks, cameras in ((8, 32), (64, 256), (64, 4096), (1024, 4096))]
    bends = bounds(weak[-1], machine)
    if args.json:
        print(json.dumps({"bounds": bends, "weak": weak, "strong": strong, "read_again": again, "assumed": vars(args)}))
        return
    print(f"{args.images_per_second:g} images/s a GPU and {args.latency_us:g} us a message assumed\n")
    for title, rows in (
        ("Bounds", [bends]),
        ("Weak scaling", weak),
        ("Strong scaling", strong),
        ("Read again in the second epoch", again),
    ):
        print(f"{title}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
