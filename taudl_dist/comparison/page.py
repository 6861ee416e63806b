"""A comparison as files: the curves as a PNG, or everything as one HTML page."""

from __future__ import annotations

import html
from pathlib import Path

from data_tools.atomic import whole_file
from taudl_dist.comparison.compare import Comparison
from taudl_dist.comparison.run import FOLLOWED, LOSSES
from taudl_dist.comparison.text import Table, tables
from taudl_dist.errors import UserError
from taudl_dist.evaluation import figures
from taudl_dist.evaluation.page import facts_table, page, picture, section

SUFFIXES = (".html", ".png")
WIDE = "\nbody { max-width: 1400px }\n.scroll { overflow-x: auto }\n.results tbody tr:first-child { font-weight: inherit }\n"
"""What a page of wide tables adds to the common style."""


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Writes what the ending of the name says, complete or not at all.

    Raises:
        UserError: a picture of runs of which none has made a step.
    """
    if path.suffix.lower() == ".png":
        content = curves(comparison)
        if content is None:
            raise UserError(
                "none of these runs has made a step, so there is no curve to draw; --out compare.html has tables"
            )
    else:
        content = _page(comparison).encode()
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def curves(comparison: Comparison) -> bytes | None:
    """Losses and evaluations over the steps, a panel each, in one PNG; runs of one group in one colour. None: no run has any."""
    panels = {}
    for name in (*LOSSES, *FOLLOWED):
        found = {run.name: run.curves[name] for run in comparison.runs if name in run.curves}
        is_course = name in LOSSES or any(len(curve.steps) > 1 for curve in found.values())
        if found and is_course:
            panels[name] = {run: (curve.steps, curve.values) for run, curve in found.items()}
    colours = {run: number for number, group in enumerate(comparison.groups) for run in group.runs}
    return figures.curves_of_runs(panels, colours=colours) if panels else None


def _page(comparison: Comparison) -> str:
    drawn = curves(comparison)
    sections = [section(title, html_table(table)) for title, table in tables(comparison).items()]
    if drawn is not None:
        note = "Running means over a twentieth of the steps. One colour: runs that differ in their seed alone."
        sections.insert(1, section("Curves", picture(drawn, "curves"), note))
    places = {run.name: run.place for run in comparison.runs}
    sections.append(section("Where the runs are", facts_table(places)))
    note = "<p>Losses are means over the last twentieth of the steps, rates stand in percent.</p>"
    return page(f"{len(comparison.runs)} runs compared", [note, *sections], style=WIDE)


def html_table(table: Table) -> str:
    """A table of which only the first row is a heading; scrolls where it is wider than the page."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in table[1:])
    return f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
