"""The numbers that the paper prints, read from published.yaml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@functools.cache
def published() -> Mapping[str, Any]:
    """The whole file."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def title(table: str) -> str:
    """A table's number and caption."""
    return published()["tables"][table]["title"]


def rates(table: str) -> list[str]:
    """The rates of a table's columns, in its order, by their names in a result: rank1, ..., mAP."""
    return published()["tables"][table]["rates"]


def rows(table: str) -> list[str]:
    """The names of a table's rows, in its order."""
    return list(published()["tables"][table]["rows"])


def is_in(table: str, benchmark: str) -> bool:
    """Whether the table has numbers of that benchmark."""
    return any(benchmark in columns for columns in published()["tables"][table]["rows"].values())


def numbers(table: str, row: str, benchmark: str) -> dict[str, float]:
    """Percent by rate; without those that the paper leaves out, and empty for a row or benchmark that it does not have."""
    values = published()["tables"][table]["rows"].get(row, {}).get(benchmark, [])
    return {rate: float(value) for rate, value in zip(rates(table), values) if value is not None}
