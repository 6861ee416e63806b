"""A comparison as tables: rows of text, which the terminal and the HTML page both show."""

from __future__ import annotations

from collections.abc import Sequence

from taudl_dist.comparison.compare import Comparison, numbers
from taudl_dist.comparison.run import FOLLOWED
from taudl_dist.evaluation.label_free import PREFIX

Table = list[list[str]]
"""Rows of cells, the first row the titles."""

_RATES = ("rank", "mAP", "mINP")
_NAMES = {"rank1": "R1", "rank5": "R5", "rank10": "R10", "rank20": "R20"}
_LONGEST = 40
"""Characters of a cell."""


def tables(comparison: Comparison) -> dict[str, Table]:
    """By title: the runs with their numbers, what differs, and the groups if any has several runs."""
    found = {"Runs": _runs(comparison)}
    if comparison.differences:
        found["What differs"] = _differences(comparison)
    if any(len(group.runs) > 1 for group in comparison.groups):
        found["Groups: mean and deviation over seeds"] = _groups(comparison)
    return found


def as_text(comparison: Comparison) -> str:
    """All tables, for a terminal."""
    parts = [f"{title}\n{aligned(table)}" for title, table in tables(comparison).items()]
    note = "losses: mean over the last twentieth of the steps; rates in percent"
    return "\n\n".join([*parts, note if comparison.differences else f"{note}\nno setting differs"])


def _runs(comparison: Comparison) -> Table:
    names = _shown(comparison.number_names)
    rows = [["run", "status", "steps", *map(_title, names)]]
    for run in comparison.runs:
        own = numbers(run)
        cells = [_number(name, own[name]) if name in own else "-" for name in names]
        rows.append([run.name, run.status, f"{run.steps:,}", *cells])
    return rows


def _differences(comparison: Comparison) -> Table:
    """A row a run; a setting is a column."""
    columns = comparison.differences
    rows = [["run", *columns]]
    for position, run in enumerate(comparison.runs):
        rows.append([run.name, *(_short(name, values[position]) for name, values in columns.items())])
    return rows


def _groups(comparison: Comparison) -> Table:
    names = _shown(comparison.number_names)
    rows = [["group", "runs", *map(_title, names)]]
    for group in comparison.groups:
        cells = []
        for name in names:
            mean, deviation, count = group.numbers.get(name, (None, None, 0))
            cell = "-" if mean is None else _number(name, mean)
            cell += "" if deviation is None else f" +- {_number(name, deviation)}"
            cells.append(cell + (f" (of {count})" if 0 < count < len(group.runs) else ""))
        rows.append([group.name, str(len(group.runs)), *cells])
    return rows


def _shown(names: Sequence[str]) -> list[str]:
    """Without the numbers of the report without labels that only explain; JSON has them all."""
    return [name for name in names if not name.startswith(PREFIX) or name.split(" ")[0] in FOLLOWED]


def _title(name: str) -> str:
    first, *rest = name.removeprefix(PREFIX).split(" ", 1)
    return " ".join([_NAMES.get(first, first), *rest])


def _number(name: str, value: float) -> str:
    return f"{100 * value:.1f}" if name.startswith(_RATES) else f"{value:.4g}"


def _short(name: str, value: str | None) -> str:
    if value is None:
        return "-"
    if name in ("dataset digest", "evaluated on"):
        return value[:12]
    return value if len(value) <= _LONGEST else f"...{value[3 - _LONGEST :]}"


def aligned(table: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
