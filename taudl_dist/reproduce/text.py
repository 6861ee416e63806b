"""A result as rows of text, which the terminal, the Markdown file and the HTML page show alike. All rates in percent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from taudl_dist.comparison.text import Table, aligned
from taudl_dist.evaluation.evaluate import RATES
from taudl_dist.reproduce.result import Block, Line, Number, Result

NOTE = (
    "In percent. Measured: mean +- sample deviation over seeds; published: as the paper prints it; difference: measured minus"
    " published. A row with `published` for its seeds was not run here."
)
_NONE = "-"


def as_text(result: Result) -> str:
    """Everything, for a terminal."""
    parts = [result.title]
    for block in result.blocks:
        parts.append(f"{heading(block)}\n{aligned(table(block))}")
        if block.contrasts:
            parts.append(f"{CONTRASTS}\n{aligned(contrasts(block))}")
    parts.append(_listed("What differs from the paper", result.remarks))
    if result.failures:
        parts.append(_listed("Failed", result.failures))
    return "\n\n".join(parts)


def as_markdown(result: Result) -> str:
    """The same as Markdown."""
    parts = [f"# {result.title}", NOTE]
    for block in result.blocks:
        parts += [f"## {heading(block)}", _markdown_table(table(block))]
        if block.contrasts:
            parts += [CONTRASTS, _markdown_table(contrasts(block))]
    parts += ["## What differs from the paper", "\n".join(f"- {remark}" for remark in result.remarks)]
    if result.failures:
        parts += ["## Failed", "\n".join(f"- {failure}" for failure in result.failures)]
    return "\n\n".join(parts) + "\n"


CONTRASTS = "Differences within a seed, and in how many seeds they are above zero"


def heading(block: Block) -> str:
    """Which data, and whether the paper has numbers of it."""
    digests = ", ".join(digest[:12] for digest in block.digests[:3]) + (", ..." if len(block.digests) > 3 else "")
    return f"{block.name} (digest {digests})" + ("" if block.is_published else ": the paper has no numbers of it")


def table(block: Block) -> Table:
    """A row each for what was run and for what the paper has besides; three columns a rate where the paper has any, else one."""
    columns = 3 if block.is_published else 1
    titles = [title for rate in block.rates for title in (RATES[rate], "published", "difference")[:columns]]
    rows = [["", "seeds", *titles]]
    for line in block.lines:
        cells = [cell for rate in block.rates for cell in _cells(line.numbers.get(rate, Number()))[:columns]]
        rows.append([line.label, _seeds(line), *cells])
    return rows


def contrasts(block: Block) -> Table:
    """A row a pair of rows."""
    columns = 3 if block.is_published else 2
    titles = [title for rate in block.rates for title in (RATES[rate], "above 0", "published")[:columns]]
    rows = [["", "seeds", *titles]]
    for pair in block.contrasts:
        cells = []
        for rate in block.rates:
            number = pair.numbers[rate]
            cells += [_mean(number, sign="+"), f"{pair.above[rate]}", _value(number.published, sign="+")][:columns]
        rows.append([pair.label, str(pair.seeds), *cells])
    return rows


def as_json(result: Result) -> dict[str, Any]:
    """Everything as plain values, rates in percent; the single runs' rates are fractions, as `taudl evaluate` has them."""
    values = dataclasses.asdict(result)
    for block, plain in zip(result.blocks, values["blocks"]):
        for kind in ("lines", "contrasts"):
            for entry, plain_entry in zip(getattr(block, kind), plain[kind]):
                for rate, number in entry.numbers.items():
                    plain_entry["numbers"][rate]["difference"] = number.difference
    return values


def _cells(number: Number) -> list[str]:
    return [_mean(number), _value(number.published), _value(number.difference, sign="+")]


def _mean(number: Number, *, sign: str = "") -> str:
    deviation = "" if number.deviation is None else f" +- {number.deviation:.1f}"
    return _value(number.mean, sign=sign) + deviation


def _value(value: float | None, *, sign: str = "") -> str:
    return _NONE if value is None else f"{value:{sign}.1f}"


def _seeds(line: Line) -> str:
    if line.seeds is None:
        return "published"
    return f"{line.seeds}" + (f" ({line.failed} failed)" if line.failed else "")


def _listed(title: str, sentences: Sequence[str]) -> str:
    return "\n".join([title, *(f"  - {sentence}" for sentence in sentences)])


def _markdown_table(rows: Table) -> str:
    head, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([head, f"|---|{'---:|' * (len(rows[0]) - 1)}", *body])
