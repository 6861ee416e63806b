"""`taudl info`: what a dataset holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from taudl_dist.commands import parse
from taudl_dist.commands.dataset_argument import Positional, dataset_path


@dataclass(frozen=True, kw_only=True)
class InfoArgs:
    """Cameras, tracklets, images, bytes, time covered and gaps of a dataset.

    Example: taudl info dataset
    """

    dataset: Annotated[str, Positional] = ""
    """Dataset folder, or its s3:// or gs:// URI."""
    data: str = ""
    """The dataset folder, as a flag."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints its result."""
    args = parse(InfoArgs, argv, command="info")
    path = dataset_path(args.dataset, args.data)
    from data_tools.info import dataset_info, info_table
    from taudl_dist.dataset import open_dataset, read_manifest
    from taudl_dist.dataset.schema import SPLITS

    dataset = open_dataset(path)
    info = dataset_info(dataset, read_manifest(dataset, splits=SPLITS))
    print(json.dumps(info) if args.json else info_table(info))
