"""What the GPU benchmark found: rows of one table, what was skipped and why, what broke, and the facts of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from data_tools.atomic import write_json


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number."""

    part: str
    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    """What the value is held against."""
    rule: Literal["", "<=", "goal <=", "goal >="] = ""
    """`<=`: an agreement check, above the limit (or nan) the benchmark fails. A goal missed is only said."""
    note: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the value keeps its limit, if it has one."""
        if self.limit is None:
            return True
        return {"<=": operator.le, ">=": operator.ge}[self.rule[-2:]](self.value, self.limit)

    @property
    def verdict(self) -> str:
        """The limit and whether it is kept, in words."""
        if self.limit is None:
            return ""
        words = ("met", "missed") if self.rule.startswith("goal") else ("ok", "FAILED")
        return f"{self.rule} {self.limit:.3g} {words[not self.is_kept]}"


@dataclass(kw_only=True)
class Report:
    """Collects rows; each is on disk as soon as it is known, if `out` is given."""

    facts: dict[str, Any]
    limit_s: float
    """Seconds after which no part is started."""
    out: Path | None = None
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Name and error."""
    began: float = field(default_factory=time.perf_counter)

    def add(self, **fields: Any) -> Row:
        """Takes the fields of a Row."""
        row = Row(**fields)
        self.rows.append(row)
        self._write()
        return row

    def skip(self, name: str, reason: str) -> None:
        """Records what was not measured."""
        self.skipped.append((name, reason))
        self._write()

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Inside, an error ends this part alone: one missing piece must not cost the numbers of an hour with a machine."""
        self._say(name)
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.skip(name, f"does not fit into memory: {_first_line(error)}")
        except Exception as error:
            traceback.print_exc()
            self.broken.append((name, f"{type(error).__name__}: {_first_line(error)}"))
            self._write()

    def has_time(self, name: str) -> bool:
        """Whether a part may start; else it is skipped."""
        if self.elapsed_s < self.limit_s:
            return True
        self.skip(name, f"the time limit of {self.limit_s:.0f} s was over")
        return False

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.began

    @property
    def exit_code(self) -> int:
        """0, or 1 if a check failed or a part broke."""
        failed = any(row.rule == "<=" and not row.is_kept for row in self.rows)
        return int(failed or bool(self.broken))

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "facts": self.facts,
            "elapsed_s": round(self.elapsed_s, 1),
            "rows": [dataclasses.asdict(row) | {"verdict": row.verdict} for row in self.rows],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "broken": [{"name": name, "error": error} for name, error in self.broken],
        }

    def table(self) -> str:
        """All of it as text."""
        header = ("part", "what", "value", "unit", "limit", "note")
        cells = [(row.part, row.name, _number(row.value), row.unit, row.verdict, row.note) for row in self.rows]
        widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
        lines = [f"{name}: {value}" for name, value in self.facts.items()] + [""]
        for line in (header, *cells):
            padded = [
                text.rjust(width) if column == 2 else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths))
            ]
            lines.append("  ".join(padded).rstrip())
        lines += [f"skipped  {name}: {reason}" for name, reason in self.skipped]
        lines += [f"BROKEN   {name}: {error}" for name, error in self.broken]
        return "\n".join([*lines, f"{self.elapsed_s:.0f} s"])

    def _say(self, name: str) -> None:
        print(f"[{self.elapsed_s:4.0f} s] {name}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        if self.out:
            write_json(self.out, self.as_dict())


def _number(value: float) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 1e-2 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
