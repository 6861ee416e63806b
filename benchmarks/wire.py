"""Bytes on the wire in one training step, counted by the network interface, against what no data-parallel step can do without.

Each world size runs in a network namespace of its own (`unshare`, no root needed where the system allows user namespaces), so its
loopback interface carries this group's traffic and nothing else, headers and acknowledgements included. `minimum`: a ring all-reduce
of the backbone's gradient, 2 (W-1)/W of it a rank, and each feature once to another rank and its gradient once back.
`all features`: what gathering every feature on every rank would take instead of sending each to the owner of its head.

    python -m benchmarks.wire [--sizes 2 4] [--model small] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.gpu_dataset import make_dataset
from taudl_dist.batches import BatchLoader, BatchPlan
from taudl_dist.config import Config, resolve
from taudl_dist.dataset import open_dataset
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

STEPS = 5
FLOAT_BYTES = 4


def configured(model: str) -> Config:
    return resolve({
        "model": {"name": model}, "recipe": "paper",
        "batch": {"images": 192, "frames": 4, "height": 64, "width": 32, "groups_per_camera": 2},
    })  # fmt: skip


def loopback_bytes() -> int:
    """Sent through the loopback interface since it came up."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def rank_main(rank: int, size: int, folder: str, model: str) -> None:
    """Trains some steps; rank 0 writes down the bytes of a step and what it should take."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    config, dataset = configured(model), open_dataset(Path(folder) / "data")
    plan, world = BatchPlan(dataset, config), World(rank=rank, size=size, local_size=size)
    learner = Learner.build(config, dataset, world)
    loader = BatchLoader(dataset, plan, rank=rank, world_size=size, start=0, stop=STEPS + 1)
    before = 0
    for batch in loader:
        train_step(learner, batch, lr=1e-4)
        dist.barrier()
        if batch.step == 0:  # connections are made
            before = loopback_bytes()
            dist.barrier()
    if rank == 0:
        counted = (loopback_bytes() - before) / STEPS
        composition = batch.composition
        features = composition.num_images * learner.model.feature_dim * FLOAT_BYTES
        gradient = sum(parameter.nbytes for parameter in learner.model.parameters())
        means = features // composition.frames
        moving = (size - 1) / size  # of the features, if owners are spread evenly
        facts = {
            "workers": size,
            "counted": counted,
            "minimum": 2 * (size - 1) * gradient + 2 * moving * features,
            "ours by formula": 2 * (size - 1) * gradient + 2 * moving * features + 2 * (size - 1) * means,
            "all features": 2 * (size - 1) * gradient + 2 * (size - 1) * features,
            "gradient_mb": gradient / 1e6,
            "features_mb": features / 1e6,
        }
        (Path(folder) / f"result-{size}.json").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()


def inside(folder: str, size: int, model: str) -> None:
    """In the namespace: brings the loopback interface up and runs the group."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    torch.multiprocessing.spawn(rank_main, args=(size, folder, model), nprocs=size)


def main() -> None:
    """Prints a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--model", default="small")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--inside", nargs=2, metavar=("FOLDER", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside[0], int(args.inside[1]), args.model)
        return
    missing = [name for name in ("unshare", "ip") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"{missing[0]} is not on the PATH; it comes with util-linux or iproute2")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder) / "data", cameras=6, tracklets=20, frames=6, heights=(60, 100))
        for size in args.sizes:
            command = [sys.executable, "-m", "benchmarks.wire", "--inside", folder, str(size), "--model", args.model]
            quiet = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
            subprocess.run(["unshare", "--net", "--map-root-user", *command], check=True, env=quiet)
            rows.append(json.loads((Path(folder) / f"result-{size}.json").read_text()))
            (Path(folder) / "meeting").unlink(missing_ok=True)
    if args.json:
        print(json.dumps(rows))
        return
    print(f"backbone gradient {rows[0]['gradient_mb']:.2f} MB, features of a batch {rows[0]['features_mb']:.2f} MB")
    print("| workers | counted, MB a step | counted / minimum | by formula / minimum | all features / minimum |")
    print("|---|---|---|---|---|")
    for row in rows:
        ratios = " | ".join(
            f"{row[key] / row['minimum']:.2f}" for key in ("counted", "ours by formula", "all features")
        )
        print(f"| {row['workers']} | {row['counted'] / 1e6:.2f} | {ratios} |")


if __name__ == "__main__":
    main()
