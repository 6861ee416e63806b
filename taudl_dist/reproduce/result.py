"""A table of measured numbers beside published ones: means and deviations over seeds, and the differences.

A seed's number is its mean over the splits of a benchmark, as published numbers are; the deviation is that over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taudl_dist.reproduce import published
from taudl_dist.reproduce.experiment import Experiment, Outcome
from taudl_dist.reproduce.tables import Row

BySeed = Mapping[int, Mapping[str, float]]
"""Rates in percent of each seed."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A rate in percent. mean and deviation: None where nothing, or no second seed, was measured. difference: mean - published."""

    mean: float | None = None
    deviation: float | None = None
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.mean is None or self.published is None else self.mean - self.published


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of one dataset. `seeds`: how many have numbers; None for a method that we do not run."""

    name: str
    label: str
    numbers: dict[str, Number]
    seeds: int | None
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How much one row has more than another, by seed. `above`: seeds in which it has more, by rate."""

    label: str
    numbers: dict[str, Number]
    above: dict[str, int]
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """The table for one benchmark or other dataset."""

    name: str
    digests: tuple[str, ...]
    rates: tuple[str, ...]
    is_published: bool
    lines: tuple[Line, ...]
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A whole table. `failures`: what failed, and why."""

    table: str
    title: str
    blocks: tuple[Block, ...]
    failures: tuple[str, ...]
    remarks: tuple[str, ...]
    runs: tuple[dict[str, Any], ...]
    is_complete: bool


def summarise(experiment: Experiment, outcomes: Sequence[Outcome], *, remarks: Sequence[str] = ()) -> Result:
    """The table of the outcomes known so far."""
    table = experiment.table.name
    blocks = tuple(_block(experiment, name, outcomes) for name in experiment.groups)
    failed = [outcome for outcome in outcomes if outcome.error]
    return Result(
        table=table,
        title=published.title(table),
        blocks=blocks,
        failures=tuple(f"{o.job.row.name} on {o.job.dataset.name}, seed {o.job.seed}: {o.error}" for o in failed),
        remarks=tuple(remarks),
        runs=tuple(_run(outcome) for outcome in outcomes),
        is_complete=len(outcomes) == len(experiment.jobs) and not failed,
    )


def number(values: Sequence[float], *, published: float | None = None) -> Number:
    """Mean and sample deviation of some values."""
    return Number(
        mean=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        published=published,
    )


def by_seed(outcomes: Sequence[Outcome], *, rates: Sequence[str], num_splits: int) -> dict[int, dict[str, float]]:
    """The rates of one row in percent by seed, means over its splits; a seed of which a split is missing is left out."""
    found: dict[int, list[Mapping[str, float]]] = {}
    for outcome in outcomes:
        if outcome.evaluation is not None:
            found.setdefault(outcome.job.seed, []).append(outcome.evaluation)
    return {
        seed: {rate: 100 * statistics.fmean(each[rate] for each in splits) for rate in rates}
        for seed, splits in found.items()
        if len(splits) == num_splits
    }


def contrast(label: str, more: BySeed, less: BySeed, *, rates: Sequence[str], printed: Mapping[str, float]) -> Contrast:
    """Differences within a seed, so that what a seed does to both rows does not count.

    Args:
        printed: the published differences by rate.
    """
    both = sorted(more.keys() & less.keys())
    differences = {rate: [more[seed][rate] - less[seed][rate] for seed in both] for rate in rates}
    return Contrast(
        label=label,
        numbers={rate: number(values, published=printed.get(rate)) for rate, values in differences.items()},
        above={rate: sum(value > 0 for value in values) for rate, values in differences.items()},
        seeds=len(both),
    )


def _block(experiment: Experiment, name: str, outcomes: Sequence[Outcome]) -> Block:
    table, members = experiment.table.name, experiment.groups[name]
    is_published = published.is_in(table, name)
    rates = tuple(published.rates(table))
    if is_published:
        rates = tuple(
            rate for rate in rates if any(rate in published.numbers(table, row, name) for row in published.rows(table))
        )
    digests = {dataset.digest for dataset in members}
    jobs = [job for job in experiment.jobs if job.dataset.digest in digests]
    splits = {row.name: len({job.dataset.digest for job in jobs if job.row == row}) for row in experiment.rows}
    own = {
        row.name: [o for o in outcomes if o.job.row == row and o.job.dataset.digest in digests]
        for row in experiment.rows
    }
    measured = {row: by_seed(mine, rates=rates, num_splits=splits[row]) for row, mine in own.items()}
    ours = {row.published for row in experiment.table.rows}
    others = [row for row in published.rows(table) if row not in ours and is_published]
    lines = [_published_line(table, row, name) for row in others]
    for row in experiment.rows:
        if splits[row.name]:
            failed = len({outcome.job.seed for outcome in own[row.name] if outcome.error})
            lines.append(_line(table, row, name, measured[row.name], rates=rates, failed=failed))
    return Block(
        name=name,
        digests=tuple(dataset.digest for dataset in members),
        rates=rates,
        is_published=is_published,
        lines=tuple(lines),
        contrasts=tuple(_contrasts(experiment, name, measured, rates)),
    )


def _published_line(table: str, row: str, benchmark: str) -> Line:
    values = published.numbers(table, row, benchmark)
    return Line(name=row, label=row, numbers={r: Number(published=v) for r, v in values.items()}, seeds=None)


def _line(table: str, row: Row, benchmark: str, measured: BySeed, *, rates: Sequence[str], failed: int) -> Line:
    printed = published.numbers(table, row.published, benchmark)
    numbers = {rate: number([one[rate] for one in measured.values()], published=printed.get(rate)) for rate in rates}
    return Line(name=row.name, label=row.label, numbers=numbers, seeds=len(measured), failed=failed)


def _contrasts(
    experiment: Experiment, benchmark: str, measured: Mapping[str, BySeed], rates: Sequence[str]
) -> list[Contrast]:
    rows, found = {row.name: row for row in experiment.rows}, []
    for more, less in experiment.table.contrasts:
        if more not in rows or less not in rows or not measured[more].keys() & measured[less].keys():
            continue
        first, second = (
            published.numbers(experiment.table.name, rows[name].published, benchmark) for name in (more, less)
        )
        printed = {rate: first[rate] - second[rate] for rate in first.keys() & second.keys()}
        label = f"{rows[more].label} - {rows[less].label}"
        found.append(contrast(label, measured[more], measured[less], rates=rates, printed=printed))
    return found


def _run(outcome: Outcome) -> dict[str, Any]:
    """What the result file says of a single run."""
    rates = {
        name: value for name, value in (outcome.evaluation or {}).items() if name.startswith("rank") or name == "mAP"
    }
    job = outcome.job
    return {
        "row": job.row.name,
        "dataset": job.dataset.name,
        "dataset_digest": job.dataset.digest,
        "seed": job.seed,
        "run": outcome.run,
        "mlflow_run_id": outcome.mlflow["run_id"] if outcome.mlflow else None,
        "code": outcome.code,
        "error": outcome.error or None,
        **{name: value for name, value in rates.items() if name != "rerank"},
    }
