"""Per-camera heads: the step with 5,000 cameras against the step with 50, and the memory of a rank against an equal share.

The batch is the same (50 cameras x 2 tracklets x 4 frames) and so are the labels of a camera; what differs is how many heads lie in
memory beside those that the batch moves. Steps of both are interleaved, so that a busy machine slows both alike.

    python -m benchmarks.heads [--cameras 50 5000] [--labels 100] [--dim 256] [--device cuda] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from taudl_dist.batches import Batch, Composition
from taudl_dist.config import OptimConfig, resolve
from taudl_dist.model import CameraHeads
from taudl_dist.parallel import assign_owners
from taudl_dist.training.heads import TrainedHeads
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

IN_BATCH, TRACKLETS, FRAMES = 50, 2, 4


def learner_of(label_counts: list[int], *, dim: int, device: str) -> Learner:
    """A worker that owns all heads, around a small network."""
    offsets = np.concatenate([[0], np.cumsum(label_counts)])
    index = type("Index", (), {"__len__": lambda _: int(offsets[-1]), "camera_offsets": offsets})()
    dataset: Any = SimpleNamespace(training=index, cameras=[str(camera) for camera in range(len(label_counts))])
    config = resolve({
        "model": {"name": "small", "feature_dim": dim}, "recipe": "official-code", "batch": {"height": 32, "width": 16},
    })  # fmt: skip
    return Learner.build(config, dataset, World(device=torch.device(device)))


def batch_of(images: torch.Tensor, *, cameras: int, labels: int, step: int) -> Batch:
    rng = np.random.default_rng(step)
    chosen = np.sort(rng.choice(cameras, IN_BATCH, replace=False))
    return Batch(
        step=step,
        images=images,
        group_sizes=(TRACKLETS * FRAMES,) * IN_BATCH,
        composition=Composition(
            cameras=np.repeat(chosen, TRACKLETS),
            labels=np.concatenate([rng.choice(labels, TRACKLETS, replace=False) for _ in chosen]),
            frames=FRAMES,
            rank_tracklets=(IN_BATCH * TRACKLETS,),
        ),
    )


def seconds_per_step(numbers: list[int], *, labels: int, dim: int, device: str, steps: int) -> dict[int, float]:
    """Median of a whole training step for each number of cameras."""
    learners = {number: learner_of([labels] * number, dim=dim, device=device) for number in numbers}
    images = torch.randn(IN_BATCH * TRACKLETS * FRAMES, 3, 32, 16).to(device)
    times: dict[int, list[float]] = {number: [] for number in numbers}
    for step in range(steps + 3):
        for number, learner in learners.items():
            batch = batch_of(images, cameras=number, labels=labels, step=step)
            start = time.perf_counter()
            train_step(learner, batch, lr=1e-4)
            if device == "cuda":
                torch.cuda.synchronize()
            times[number].append(time.perf_counter() - start)
    return {number: statistics.median(values[3:]) for number, values in times.items()}


def fullest_shares(cameras: int, sizes: list[int]) -> dict[int, float]:
    """Rows of the fullest rank over an equal share, for cameras as different as real ones (log-normal)."""
    counts = np.random.default_rng(0).lognormal(7, 1, cameras).astype(int)
    shares = {}
    for size in sizes:
        loads = np.bincount(assign_owners(counts.tolist(), size), weights=counts, minlength=size)
        shares[size] = float(loads.max() / (counts.sum() / size))
    return shares


def fullest_bytes(cameras: int, sizes: list[int]) -> dict[int, float]:
    """The same in bytes of weights and moments that each rank really allocates (8-D features, to be quick)."""
    counts = dict(enumerate(np.random.default_rng(0).lognormal(5, 1, cameras).astype(int).tolist()))
    total, shares = 0, {}
    for size in sizes:
        owners = assign_owners(list(counts.values()), size)
        held = [[camera for camera in counts if owners[camera] == rank] for rank in range(size)]
        names = dict.fromkeys(counts, "")
        loads = [
            TrainedHeads(CameraHeads(counts, 8, seed=0, held=cameras), names, OptimConfig()).num_bytes
            for cameras in held
        ]
        total = total or sum(loads)
        shares[size] = max(loads) / (total / size)
    return shares


def main() -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, nargs=2, default=[50, 5000], metavar=("FEW", "MANY"))
    parser.add_argument("--labels", type=int, default=100, help="of each camera")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    few, many = args.cameras
    times = seconds_per_step([few, many], labels=args.labels, dim=args.dim, device=args.device, steps=args.steps)
    result = {
        "step_ms": {number: seconds * 1e3 for number, seconds in times.items()},
        "many_over_few": times[many] / times[few],
        "fullest_over_equal_share_rows": fullest_shares(many, [1, 2, 4, 64, 1024]),
        "fullest_over_equal_share_bytes": fullest_bytes(many, [1, 2, 4]),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(
        f"step with {few} cameras {times[few] * 1e3:.1f} ms, with {many} {times[many] * 1e3:.1f} ms: ratio {result['many_over_few']:.3f}"
    )
    for what in ("rows", "bytes"):
        for size, share in result[f"fullest_over_equal_share_{what}"].items():
            print(f"W = {size:4}: {what} of the fullest rank over an equal share {share:.4f}")


if __name__ == "__main__":
    main()
