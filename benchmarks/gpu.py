"""Everything a machine with a GPU has to show, in one command and less than eight minutes on an H100.

    python -m benchmarks.gpu [--out gpu.json]

Whether the GPU computes what the CPU computes; images a second of the compute, the data path and both; CCTA and heads at scale. It
needs torch, torchvision, numpy, pyarrow and this repository; what DALI is needed for is skipped without it, and said. `--device cpu
--small` runs every part in a tiny form. Exit code 1 if an agreement check fails or a part breaks.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_agreement
from benchmarks.gpu_dataset import make_dataset
from benchmarks.gpu_losses import CCTA, HEADS, run_ccta, run_heads
from benchmarks.gpu_measure import Setting
from benchmarks.gpu_report import Report
from benchmarks.gpu_speed import COMPUTE, Speed
from taudl_dist.errors import UsageError


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts, prints the table, and returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        device = _device(args.device)
        if args.out and not args.out.parent.is_dir():
            raise UsageError(f"--out {args.out}: no folder {args.out.parent}; make it first")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    setting = Setting.small(device) if args.small else Setting(device=device)
    report = Report(facts=_facts(device, small=args.small), limit_s=args.limit_s, out=args.out)
    for name, run in PARTS.items():
        if name in args.parts and report.has_time(name):
            run(report, setting)
    print(report.table())
    return report.exit_code


def _speed(report: Report, setting: Setting) -> None:
    with tempfile.TemporaryDirectory() as folder, report.attempt(COMPUTE):
        size = {"cameras": 6, "tracklets": 64, "frames": 8}
        dataset = make_dataset(Path(folder) / "dataset", **size, heights=setting.image_heights)
        Speed(report=report, setting=setting, dataset=dataset).run()


PARTS = {gpu_agreement.PART: gpu_agreement.run, COMPUTE: _speed, CCTA: run_ccta, HEADS: run_heads}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes: checks that every part runs, measures nothing"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--limit-s", type=float, default=450, help="seconds after which no measurement is started")
    parser.add_argument("--out", type=Path, help="also write everything as JSON, after every measurement")
    return parser


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: expected cuda, cuda:N or cpu") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {name}: torch {torch.__version__} sees no GPU here; use --device cpu --small")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} GPUs; use a lower number")
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"--device {name}: expected cuda, cuda:N or cpu")
    return device


def _facts(device: torch.device, *, small: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts = {
            "device": properties.name,
            "memory": f"{properties.total_memory / 1e9:.0f} GB",
            "compute capability": f"{properties.major}.{properties.minor}",
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    facts |= {"torch": torch.__version__, "DALI": _dali(), "commit": _commit()}
    return facts | ({"small": "these sizes measure nothing"} if small else {})


def _dali() -> str:
    for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git here)"


if __name__ == "__main__":
    sys.exit(main())
