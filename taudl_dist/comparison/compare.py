"""What differs between runs, and what runs of equal settings come to over their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taudl_dist.comparison.run import DIGEST_LENGTH, FOLLOWED, LOSSES, Run

SEED = "seed"
COUNTS = ("num_valid_queries", "num_skipped_queries", "num_query", "num_gallery", "frames")
"""Numbers of an evaluation that are not a result."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone: same sweep, data and settings."""

    name: str
    runs: tuple[str, ...]
    numbers: dict[str, tuple[float, float | None, int]]
    """Mean, sample deviation (None of a single run) and count, of each number."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, the settings and facts in which they differ (a value each, in the order of the runs), and their groups."""

    runs: tuple[Run, ...]
    differences: dict[str, tuple[str | None, ...]]
    groups: tuple[Group, ...]

    @property
    def digests(self) -> set[str]:
        """Digests of the data trained on."""
        return {run.dataset_digest[:DIGEST_LENGTH] for run in self.runs}

    @property
    def evaluation_digests(self) -> set[str]:
        """Digests of the data evaluated on."""
        return set().union(*(run.evaluated_on for run in self.runs))

    @property
    def has_same_data(self) -> bool:
        """Whether all were trained on one dataset, and evaluated on one."""
        return len(self.digests) <= 1 and len(self.evaluation_digests) <= 1

    @property
    def number_names(self) -> list[str]:
        """The numbers that any run has: final losses, then evaluations."""
        names = [name for run in self.runs for name in numbers(run)]
        return sorted(dict.fromkeys(names), key=lambda name: LOSSES.index(name) if name in LOSSES else len(LOSSES))


def compare(runs: Sequence[Run]) -> Comparison:
    """Puts runs side by side, in the order given."""
    columns = {name: tuple(run.settings.get(name) for run in runs) for name in _union(runs, "settings")}
    columns |= {name: tuple(run.facts.get(name) for run in runs) for name in _union(runs, "facts")}
    columns["dataset digest"] = tuple(run.dataset_digest for run in runs)
    columns["evaluated on"] = tuple(", ".join(sorted(run.evaluated_on)) or None for run in runs)
    differences = {name: values for name, values in columns.items() if len(set(values)) > 1}
    return Comparison(runs=tuple(runs), differences=differences, groups=_groups(runs, differences))


def numbers(run: Run) -> dict[str, float]:
    """Final losses and evaluations of a run."""
    losses = {name: run.curves[name].final() for name in LOSSES if name in run.curves}
    results = {name: value for name, value in run.evaluations.items() if name not in COUNTS}
    courses = {name: run.curves[name].values for name in FOLLOWED if name in run.curves}
    results |= {f"{name} (best)": float(values.max()) for name, values in courses.items() if len(values) > 1}
    return {name: value for name, value in {**losses, **results}.items() if math.isfinite(value)}


def as_json(comparison: Comparison) -> dict[str, Any]:
    """What `taudl compare --json` prints."""
    return {
        "runs": [
            {
                "name": run.name,
                "place": run.place,
                "status": run.status,
                "steps": run.steps,
                "parent": run.parent,
                "dataset_digest": run.dataset_digest,
                "evaluated_on": sorted(run.evaluated_on),
                **dict(run.facts),
                "numbers": numbers(run),
            }
            for run in comparison.runs
        ],
        "differences": {name: list(values) for name, values in comparison.differences.items()},
        "groups": [
            {
                "name": group.name,
                "runs": list(group.runs),
                "numbers": {
                    name: {"mean": mean, "deviation": deviation, "count": count}
                    for name, (mean, deviation, count) in group.numbers.items()
                },
            }
            for group in comparison.groups
        ],
        "has_same_data": comparison.has_same_data,
    }


def _union(runs: Sequence[Run], attribute: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in getattr(run, attribute)))


def _groups(runs: Sequence[Run], differences: dict[str, tuple[str | None, ...]]) -> tuple[Group, ...]:
    members: dict[tuple[Any, ...], list[int]] = {}
    for position, run in enumerate(runs):
        settings = tuple(sorted((name, value) for name, value in run.settings.items() if name != SEED))
        members.setdefault((run.parent or "", run.dataset_digest, settings), []).append(position)
    told_by = _telling(runs, differences)
    return tuple(_group([runs[at] for at in positions], told_by) for positions in members.values())


def _telling(runs: Sequence[Run], differences: dict[str, tuple[str | None, ...]]) -> list[str]:
    """The settings that tell groups apart; of several that part the runs in the same way, as a recipe and what it sets, the first."""
    ways: dict[tuple[int, ...], str] = {}
    for name, values in differences.items():
        if name != SEED and any(name in run.settings for run in runs):
            ways.setdefault(tuple(values.index(value) for value in values), name)
    return sorted(ways.values())


def _group(runs: list[Run], told_by: list[str]) -> Group:
    """Named by its sweep and by the settings in which the compared runs differ; a single run by its own name."""
    said = [f"{name}={runs[0].settings.get(name, '-')}" for name in told_by]
    name = " ".join([*([runs[0].parent] if runs[0].parent else []), *said]) or "same settings"
    columns: dict[str, list[float]] = {}
    for run in runs:
        for number, value in numbers(run).items():
            columns.setdefault(number, []).append(value)
    return Group(
        name=name if len(runs) > 1 else runs[0].name,
        runs=tuple(run.name for run in runs),
        numbers={
            number: (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
            for number, values in columns.items()
        },
    )
