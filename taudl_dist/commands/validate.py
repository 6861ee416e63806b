"""`taudl validate`: re-reads and verifies every file of a dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from taudl_dist.commands import parse
from taudl_dist.commands.dataset_argument import Positional, dataset_path


@dataclass(frozen=True, kw_only=True)
class ValidateArgs:
    """Reads a dataset again: checksums, tars, extents, every image, the digest. Exit code 1 when anything is wrong.

    Example: taudl validate dataset
    """

    dataset: Annotated[str, Positional] = ""
    """Dataset folder."""
    data: str = ""
    """The dataset folder, as a flag."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Runs the command and prints its result."""
    args = parse(ValidateArgs, argv, command="validate")
    path = dataset_path(args.dataset, args.data)
    from data_tools.validate import validate_dataset

    report = validate_dataset(path)
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        for problem in report.problems:
            print(problem)
        if report.num_problems > len(report.problems):
            print(f"... and {report.num_problems - len(report.problems)} more problems")
        verdict = f"{report.num_problems} problems" if report.num_problems else "no problem"
        print(f"{verdict} in {report.shards} shards, {report.tracklets} tracklets, {report.images} images")
    return 1 if report.num_problems else 0
