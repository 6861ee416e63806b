"""`taudl import`: a re-identification benchmark as a dataset of tracklets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class ImportArgs:
    """A re-identification benchmark as a dataset: simulated SSTT tracklets to train on, query and gallery to test on.

    Example: taudl import market1501 Market-1501-v15.09.15 DATASET
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Benchmark: market1501."""
    root: Annotated[Positional[str], arg(metavar="ROOT")]
    """Folder of your copy of the benchmark."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Dataset folder to write."""
    identities: int = 0
    """Keep only the first so many training identities, for small machines; 0 keeps all. Query and gallery stay whole."""
    allow_mismatch: bool = False
    """Import a copy that is not complete: its counts are then reported, not refused."""
    json: bool = False
    """Print what was imported as one JSON object."""


def main(argv: Sequence[str]) -> None:
    """Imports and says what there is now."""
    args = parse(ImportArgs, argv, command="import")
    from data_tools.benchmarks import importer
    from taudl_dist.dataset import open_dataset

    counts = importer(args.name)(args.root, args.out, identities=args.identities, allow_mismatch=args.allow_mismatch)
    dataset = open_dataset(args.out)
    splits = dataset.info["splits"]
    if args.json:
        print(json.dumps({"out": args.out, "digest": dataset.digest, "splits": splits, "counts": counts}))
        return
    for split, held in splits.items():
        print(f"{split:8} {held['tracklets']:7,} tracklets {held['frames']:8,} images")
    print(f"{args.out}: {len(dataset.cameras)} cameras, digest {dataset.digest[:12]}")
