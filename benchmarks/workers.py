"""N workers against one, in promise 3's measures: the gradient of one step, and every weight after 20 steps.

Trains the same run with `torchrun` groups of W gloo processes and compares checkpoints. Without weight decay, Adam's first moment after
one step is 0.1 x the gradient. After 20 steps: fp64 as the largest difference of a tensor, as a share of its norm; fp32 as the
difference of all weights, as a share of the way they have travelled, beside the control: one worker that sums in another order
(parallel.two_pass), for Adam makes a full step of the sign of a gradient near zero.

    python -m benchmarks.workers [--sizes 2 3 4] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.gpu_dataset import make_dataset

FLAGS = [
    "--model", "small", "--batch.images", "96", "--batch.frames", "4", "--batch.height", "64", "--batch.width", "32",
    "--optim.weight-decay", "0", "--tracking.uri", "none", "--recipe", "paper", "--seed", "1",
]  # fmt: skip
CONTROL = "1, other order"
GRADIENT_LIMIT = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 1e-2}


def train(data: Path, out: Path, *words: str, size: int = 1) -> dict[str, torch.Tensor]:
    """Trains with a group of `size` processes; the tensors of the last checkpoint."""
    group = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
    command = [sys.executable, *group, "-m", "taudl_dist.cli", "train", "--data", str(data), "--out", str(out), *FLAGS]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)}\n{done.stderr}")
    return tensors(max((out / "checkpoints").iterdir()))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """By name; those of the heads by their camera, whichever worker wrote them."""
    found = load_file(checkpoint / "backbone.safetensors")
    for path in checkpoint.glob("heads-*.safetensors"):
        packed = load_file(path)
        with safe_open(path, framework="pt") as file:
            table = json.loads(file.metadata()["cameras"])
        first = 0
        for camera, count in table:
            rows = slice(first, first := first + count)
            found |= {f"{camera}/{name}": tensor[rows] for name, tensor in packed.items() if not name.endswith(":step")}
    return found


def whole(state: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([state[name].double().flatten() for name in names])


def compare(data: Path, folder: Path, precision: str, sizes: list[int]) -> list[dict[str, float | str]]:
    """A row for each world size and the control."""
    ways = {CONTROL: ["--parallel.two-pass"], **{str(size): [] for size in sizes}}
    runs: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for steps in (1, 20):
        words = ["--precision", precision, "--steps", "20", "--stop-at", str(steps)]
        for way, more in {"1": [], **ways}.items():
            size = int(way) if way.isdecimal() else 1
            runs[way, steps] = train(
                data, folder / f"{precision}-{way[0]}-{bool(more)}-{steps}", *words, *more, size=size
            )
    gradients = [name for name in runs["1", 1] if name.endswith(":exp_avg")]
    weights = [name.removesuffix(":exp_avg") for name in gradients]
    rows = []
    for way in ways:
        one, other = runs["1", 20], runs[way, 20]
        gradient = whole(runs["1", 1], gradients)
        travelled = (whole(one, weights) - whole(runs["1", 1], weights)).norm()
        rows.append({
            "precision": precision,
            "workers": way,
            "gradient": ((whole(runs[way, 1], gradients) - gradient).norm() / gradient.norm()).item(),
            "limit": GRADIENT_LIMIT[precision],
            "weights": max(((other[n] - one[n]).double().norm() / one[n].double().norm()).item() for n in weights),
            "travelled": ((whole(other, weights) - whole(one, weights)).norm() / travelled).item(),
        })  # fmt: skip
    return rows


def main() -> None:
    """Prints a line for each precision and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "data", cameras=6, tracklets=20, frames=6, heights=(60, 100))
        rows = [row for p in GRADIENT_LIMIT for row in compare(folder / "data", folder, p, args.sizes)]
    if args.json:
        print(json.dumps(rows))
        return
    print(
        "| precision | workers | gradient of a step, relative | weights after 20 steps, worst tensor | ... of the way travelled |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(f"{row[key]:.1e}" for key in ("gradient", "weights", "travelled"))
        print(f"| {row['precision']} | {row['workers']} | {numbers} |")


if __name__ == "__main__":
    main()
