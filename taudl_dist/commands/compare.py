"""`taudl compare`: training runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from taudl_dist.commands import parse

if TYPE_CHECKING:
    from taudl_dist.comparison import Comparison, Run


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """What differs between runs in settings, data and numbers, with their curves in one picture; running and failed runs too.

    Runs that differ in their seed alone form a group, shown with mean and deviation. Numbers of different datasets are not
    comparable: the exit code is then 1 and no file is written, unless --allow-other-data.

    Example: taudl compare runs/first runs/second --out compare.html
    """

    runs: Annotated[tuple[str, ...], Positional] = ()
    """Run folders."""
    experiment: str = ""
    """Instead of folders: an MLflow experiment, whose runs are compared; children of a sweep are grouped under its name."""
    filter: str = ""
    """With --experiment: MLflow's filter, for instance "tags.recipe = 'best' and attributes.status = 'FINISHED'"."""
    uri: str = ""
    """With --experiment: MLflow's address, sqlite:///FILE or http://HOST:PORT; empty: $MLFLOW_TRACKING_URI."""
    evaluations: tuple[str, ...] = ()
    """Files of `taudl evaluate --json`, each about the final weights of one of the runs; they win over what MLflow holds."""
    allow_other_data: bool = False
    """Compare runs trained, or evaluated, on different datasets."""
    out: str = ""
    """Write tables and curves to this .html file, or the curves alone to this .png file."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print one JSON object instead of tables."""


def main(argv: Sequence[str]) -> None:
    """Compares, prints, writes."""
    args = parse(CompareArgs, argv, command="compare")
    _check(args)
    from taudl_dist.commands.output import check_output
    from taudl_dist.comparison import compare
    from taudl_dist.comparison.compare import as_json
    from taudl_dist.comparison.page import write_comparison
    from taudl_dist.comparison.text import as_text
    from taudl_dist.progress import log

    out: Path | None = check_output(args.out, overwrite=args.overwrite) if args.out else None
    comparison = compare(_runs(args))
    print(json.dumps(as_json(comparison)) if args.json else as_text(comparison))
    if not args.allow_other_data:
        _refuse_other_data(comparison)
    if out:
        write_comparison(out, comparison)
        log(f"written: {out}")


def _check(args: CompareArgs) -> None:
    from taudl_dist.errors import UsageError

    if bool(args.runs) == bool(args.experiment):
        found = "both" if args.runs else "neither"
        raise UsageError(
            f"found {found} run folders and --experiment, expected one of the two: taudl compare RUN RUN ..."
        )
    if (args.filter or args.uri) and not args.experiment:
        raise UsageError("--filter and --uri choose runs of an MLflow --experiment, which is missing")
    if args.out and Path(args.out).suffix.lower() not in (".html", ".png"):
        raise UsageError(f"--out {args.out}: found the ending {Path(args.out).suffix!r}, expected .html or .png")
    if args.overwrite and not args.out:
        raise UsageError("--overwrite has no meaning without --out")


def _runs(args: CompareArgs) -> list[Run]:
    from taudl_dist.comparison.evaluations import with_files
    from taudl_dist.comparison.run import distinct_names, read_run
    from taudl_dist.comparison.tracked import find_runs, with_tracked

    if args.experiment:
        runs = find_runs(args.experiment, filter_string=args.filter, uri=args.uri)
    else:
        runs = [with_tracked(run) for run in [read_run(path) for path in dict.fromkeys(args.runs)]]
    return with_files(distinct_names(runs), args.evaluations)


def _refuse_other_data(comparison: Comparison) -> None:
    from taudl_dist.errors import UserError

    for what, digests in (("trained", comparison.digests), ("evaluated", comparison.evaluation_digests)):
        if len(digests) > 1:
            raise UserError(
                f"the runs were {what} on datasets of {len(digests)} digests ({', '.join(digest[:12] for digest in sorted(digests))}),"
                " and their numbers are not comparable; leave runs out, or pass --allow-other-data"
            )
