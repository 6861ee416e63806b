"""CCTA (Eq. 3), forward and backward: one log-sum-exp over all tracklets against a Python loop over them.

The loop is what the formula reads like, and what the authors' released code does: the matrix of distances once, then for each tracklet
the cross-camera ones masked, sorted, and the log of a ratio of sums. `limit` is what no version can do without: the three matrix
products of the distances and their gradient. The last column is the loop's rounding: it takes distances from the Gram matrix alone,
which cancels for near tracklets.

    python -m benchmarks.ccta [--tracklets 96 1536 4096] [--device cuda] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from taudl_dist.losses import ccta_loss

FEATURE_DIM = 2048
NUM_CAMERAS = 6
NUM_NEIGHBOURS = 3
SIGMA = 2.0


def ccta_by_loop(features: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
    """Mean of Eq. 3 over tracklets (N, D), one after another; exp underflows where features are far apart."""
    squares = features.square().sum(1)
    distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    similarity = torch.exp(-distances / (2 * SIGMA**2))
    losses = []
    # rows by unbind: indexing them one by one would fill a matrix (N, N) of gradients for each
    for camera, distance, similar in zip(cameras, distances.detach().unbind(), similarity.unbind()):
        is_other = cameras != camera
        nearest = distance[is_other].argsort()[:NUM_NEIGHBOURS]
        losses.append(-torch.log(similar[is_other][nearest].sum() / similar.sum()))
    return torch.stack(losses).mean()


def ccta_vectorised(features: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
    return ccta_loss(features, cameras, num_neighbours=NUM_NEIGHBOURS, sigma=SIGMA)


def tracklets(count: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) not negative, as after ReLU, with distances of about 15; cameras (N,) balanced."""
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(count, FEATURE_DIM, generator=generator).relu() * 0.4
    return features.to(device).requires_grad_(), (torch.arange(count) % NUM_CAMERAS).to(device)


def limit(features: torch.Tensor, _: torch.Tensor) -> None:
    """The products that distances (N, N) and the gradient to features (N, D) take."""
    with torch.no_grad():
        gram = features @ features.T
        _ = gram @ features
        _ = gram.T @ features


def seconds(work: Callable[..., object], features: torch.Tensor, cameras: torch.Tensor, *, repeats: int) -> float:
    """Median time, after one run to warm up if there is more than one."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        work(features, cameras)
        if features.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeats > 1 :])


def gradient_of(loss: Callable[..., torch.Tensor], features: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss(features, cameras), features)[0]


def measure(count: int, *, device: str, repeats: int) -> dict[str, float]:
    """Milliseconds of each version at one number of tracklets, and their ratios."""
    features, cameras = tracklets(count, device)
    gradients: dict[str, torch.Tensor] = {}

    def train(name: str, loss: Callable[..., torch.Tensor]) -> Callable[..., None]:
        return lambda features, cameras: gradients.update({name: gradient_of(loss, features, cameras)})

    ours = seconds(train("ours", ccta_vectorised), features, cameras, repeats=repeats)
    least = seconds(limit, features, cameras, repeats=repeats)
    loop = seconds(train("loop", ccta_by_loop), features, cameras, repeats=repeats)
    difference = (gradients["loop"] - gradients["ours"]).norm() / gradients["loop"].norm()
    return {
        "tracklets": count, "loop_ms": loop * 1e3, "ours_ms": ours * 1e3, "loop_over_ours": loop / ours,
        "ours_over_limit": ours / least, "gradients_differ": difference.item(),
    }  # fmt: skip


def main() -> None:
    """Prints a line for each number of tracklets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, nargs="+", default=[96, 1536, 4096])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, of which the median counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    facts = {"dim": FEATURE_DIM, "cameras": NUM_CAMERAS, "device": args.device, "threads": torch.get_num_threads()}
    rows = (measure(count, device=args.device, repeats=args.repeats) for count in args.tracklets)
    if args.json:
        print(json.dumps({**facts, "rows": list(rows)}))
        return
    print(f"{FEATURE_DIM} features, {NUM_CAMERAS} cameras, {args.device}, {facts['threads']} threads")
    formats = {
        "tracklets": "9d", "loop_ms": "9.1f", "ours_ms": "9.1f", "loop_over_ours": "14.1f", "ours_over_limit": "15.2f",
        "gradients_differ": "16.1e",
    }  # fmt: skip
    print(" ".join(f"{name:>{max(9, len(name))}}" for name in formats))
    for row in rows:
        cells = (f"{row[name]:{form}}" for name, form in formats.items())
        print(" ".join(f"{cell:>{max(9, len(name))}}" for name, cell in zip(formats, cells)), flush=True)


if __name__ == "__main__":
    main()
