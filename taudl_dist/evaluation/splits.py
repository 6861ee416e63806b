"""Several evaluations as one result: mean and deviation over a benchmark's splits, or over runs of several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taudl_dist.errors import UsageError
from taudl_dist.evaluation.protocols import BENCHMARKS
from taudl_dist.progress import log

_COUNTS = ("num_valid_queries", "num_skipped_queries")


def combine(results: Sequence[Mapping[str, Any]], *, rates: Sequence[str]) -> dict[str, Any]:
    """Mean of each rate, its sample deviation as `<rate>_std`, sums of the counts, and the results themselves as `splits`.

    Raises:
        UsageError: the results are of different protocols, or some splits appear more often than others.
    """
    protocols = {result["protocol"] for result in results}
    if len(protocols) > 1:
        raise UsageError(
            f"datasets of the protocols {', '.join(sorted(protocols))}: a mean over them means nothing; evaluate them apart,"
            " or name one with --protocol"
        )
    splits = [result["split"] for result in results]
    if len({splits.count(split) for split in splits}) > 1:
        raise UsageError(f"splits {splits}: some appear more often than others; give each as many runs")
    means = {rate: statistics.fmean(result[rate] for result in results) for rate in rates}
    deviations = {f"{rate}_std": statistics.stdev(result[rate] for result in results) for rate in rates}
    counts = {name: sum(result[name] for result in results) for name in _COUNTS}
    return {
        **means,
        **deviations,
        **counts,
        "protocol": results[0]["protocol"],
        "num_results": len(results),
        "splits": [dict(result) for result in results],
    }


def warn_of_another_split(run: Path, digest: str, protocol: str) -> None:
    """A warning where a run was trained on other data than it is tested on, of a benchmark whose splits share their people."""
    from taudl_dist.training.run_folder import RunFolder

    if BENCHMARKS[protocol].num_splits == 1 or not (run / "run.json").is_file():
        return
    trained = RunFolder(path=run).info()["dataset"]["digest"]
    if trained != digest:
        log(
            f"warning: {run} was trained on the dataset {trained[:12]} and is tested on {digest[:12]}; if that is another split"
            f" of {protocol}, people of the test were in the training and the numbers mean nothing"
        )


def table(combined: Mapping[str, Any], *, rates: Mapping[str, str]) -> str:
    """A row for each result, their mean and their deviation, in percent; `rates` are names and titles of the columns."""
    rows = {f"{number} split {_split(result)}": result for number, result in enumerate(combined["splits"], start=1)}
    rows |= {"mean": combined, "deviation": {rate: combined[f"{rate}_std"] for rate in rates}}
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{title:>8}" for title in rates.values())]
    lines += [f"{name:{width}}" + "".join(f"{100 * row[rate]:8.1f}" for rate in rates) for name, row in rows.items()]
    return "\n".join([*lines, f"in percent; {_coverage(combined)}"])


def _coverage(combined: Mapping[str, Any]) -> str:
    expected = BENCHMARKS[combined["protocol"]].num_splits
    found = len({result["split"] for result in combined["splits"]})
    of_all = f", {found} of the {expected} splits that published numbers average" if expected > 1 else ""
    return f"protocol {combined['protocol']}, {combined['num_results']} results{of_all}"


def _split(result: Mapping[str, Any]) -> str:
    return "-" if result["split"] is None else str(result["split"])
