"""The files of a result: JSON, Markdown, and an HTML page, each complete or not at all."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from data_tools.atomic import whole_file
from taudl_dist.comparison.page import WIDE, html_table
from taudl_dist.evaluation.page import facts_table, page, picture, section
from taudl_dist.reproduce import text
from taudl_dist.reproduce.picture import duplication_curves
from taudl_dist.reproduce.result import Result


def write_files(out: Path, result: Result) -> list[Path]:
    """Writes <table>.json, .md and .html into `out` and returns their paths."""
    contents = {
        "json": json.dumps(text.as_json(result), indent=1) + "\n",
        "md": text.as_markdown(result),
        "html": _page(result),
    }
    written = []
    for suffix, content in contents.items():
        path = out / f"{result.table}.{suffix}"
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def _page(result: Result) -> str:
    sections = [f"<p>{html.escape(text.NOTE)}</p>"]
    for block in result.blocks:
        sections.append(section(text.heading(block), html_table(text.table(block))))
        if block.contrasts:
            sections.append(f"<p>{text.CONTRASTS}.</p>{html_table(text.contrasts(block))}")
        drawn = duplication_curves(result.table, block)
        if drawn:
            sections.append(picture(drawn, f"rates over duplication, {block.name}"))
    sections.append(section("What differs from the paper", _listed(result.remarks)))
    if result.failures:
        sections.append(section("Failed", _listed(result.failures)))
    runs = {f"{run['row']}, {run['dataset']}, seed {run['seed']}": run["run"] for run in result.runs}
    sections.append(section("Runs", facts_table(runs)))
    return page(result.title, sections, style=WIDE)


def _listed(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"
