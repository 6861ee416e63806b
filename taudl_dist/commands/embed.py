"""`taudl embed`: tracklet features of a dataset as Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class EmbedArgs:
    """Features of a dataset's tracklets as a Parquet file: key, camera, split, feature.

    Interrupted, it goes on when it is run again with the same flags.
    Example: taudl embed --data DATASET --model RUN --out features.parquet
    """

    data: str
    """Dataset folder, or its s3:// or gs:// URI."""
    model: str
    """A run folder, a folder with model.safetensors, or that file."""
    out: str
    """Parquet file to write."""
    split: Literal["all", "train", "query", "gallery"] = "all"
    """Tracklets to embed."""
    frames: int = 0
    """Evenly spaced frames averaged per tracklet; 0 takes all."""
    flip: bool = False
    """Average over each image and its mirror image: twice the work."""
    normalize: bool = False
    """Divide each tracklet's feature by its L2 norm."""
    workers: int = 1
    """Processes; more than one runs as Ray tasks, here or on the cluster of RAY_ADDRESS, see --device."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What each process takes. `auto`: a GPU if this machine, or with several workers the cluster, has any, else a CPU. With several
    workers, `cpu` and `gpu` wait for machines that are still to come, as from an autoscaler."""
    threads: int = 0
    """CPU threads of each process; 0: one with several workers, else all. At equal --threads the file has the same bytes whatever --workers."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print what was written as one JSON object."""


def main(argv: Sequence[str]) -> None:
    """Embeds, writes, and says what was written."""
    args = parse(EmbedArgs, argv, command="embed")
    from taudl_dist.commands.output import check_output
    from taudl_dist.evaluation.embedding import write_features

    check_output(args.out, overwrite=True)  # whether the file may be replaced depends on what it holds
    written = write_features(
        args.data, args.model, args.out, split=args.split, frames=args.frames, flip=args.flip, normalize=args.normalize,
        workers=args.workers, threads=args.threads, device=args.device, overwrite=args.overwrite,
    )  # fmt: skip
    if args.json:
        print(json.dumps(written))
    else:
        print(f"{written['num_tracklets']:,} features of length {written['feature_dim']} in {written['path']}")
