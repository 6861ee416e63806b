"""What our system runs for each of the paper's tables: a row is a recipe, sometimes with a setting or a duplication of its own.

Rows with CCTA stand for Eq. 1-4 as printed (`paper`), for what the released code computes (`official-code`), and for our default (`best`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from taudl_dist.config import RECIPES, flatten
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row that we run.

    name: how --rows and MLflow call it. label: what a table prints. published: the row of the paper it stands beside, or "".
    settings: nested, over those of the recipe. duplication: share of the identities with two labels; None: the data as they are.
    """

    name: str
    label: str
    recipe: str
    published: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    duplication: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper. `contrasts`: pairs of row names; what is asked is how much the first has more than the second."""

    name: str
    rows: tuple[Row, ...]
    contrasts: tuple[tuple[str, str], ...] = ()

    @property
    def decided(self) -> set[str]:
        """Flat names of the settings that the rows decide, so that a user cannot."""
        losses = {name for recipe in RECIPES.values() for name in flatten(recipe) if name.startswith("loss.")}
        return {"recipe", "seed"} | losses | {name for row in self.rows for name in flatten(row.settings)}

    def select(self, patterns: Sequence[str]) -> tuple[Row, ...]:
        """The rows whose names match any of the patterns, as a shell matches file names; all rows of no pattern.

        Raises:
            UsageError: a pattern that no row matches.
        """
        for pattern in patterns:
            if not fnmatch.filter([row.name for row in self.rows], pattern):
                raise UsageError(
                    f"--rows {pattern}: no such row in {self.name}, which has {', '.join(row.name for row in self.rows)}"
                )
        return tuple(row for row in self.rows if not patterns or any(fnmatch.fnmatch(row.name, p) for p in patterns))


DUPLICATIONS = (0.0, 0.1, 0.2, 0.3, 0.5)

_CCTA = {"paper": "Eq. 1-4 as printed", "official-code": "as the released code", "best": "recipe best"}


def _taudl(published: str) -> tuple[Row, ...]:
    return tuple(
        Row(name=recipe, label=f"{published} ({what})", recipe=recipe, published=published)
        for recipe, what in _CCTA.items()
    )


def _duplications(recipe: str) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=f"{recipe}-{100 * share:.0f}",
            label=f"{100 * share:.0f} % ({_CCTA[recipe]})",
            recipe=recipe,
            published=f"{100 * share:.0f} %",
            duplication=share,
        )
        for share in DUPLICATIONS
    )


def _parameter(recipe: str, name: str, symbol: str, values: Sequence[float]) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=f"{recipe}-{symbol}-{value:g}",
            label=f"{symbol} = {value:g} ({_CCTA[recipe]})",
            recipe=recipe,
            settings={"loss": {name: value}},
        )
        for value in values
    )


_PCTD = Row(name="pctd", label="PCTD", recipe="pctd", published="PCTD")

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(name="table2", rows=_taudl("TAUDL")),
        Table(name="table3", rows=_taudl("TAUDL")),
        Table(
            name="table4",
            rows=(Row(name="jcc", label="JCC", recipe="jcc", published="JCC"), _PCTD),
            contrasts=(("pctd", "jcc"),),
        ),
        Table(
            name="table5",
            rows=(Row(name="pctd", label="CCTA off", recipe="pctd", published="CCTA off"), *_taudl("CCTA on")),
            contrasts=(("paper", "pctd"), ("official-code", "pctd"), ("best", "pctd")),
        ),
        Table(
            name="table6",
            rows=_duplications("paper") + _duplications("best"),
            contrasts=tuple(
                (f"{recipe}-{100 * share:.0f}", f"{recipe}-0")
                for recipe in ("paper", "best")
                for share in DUPLICATIONS[1:]
            ),
        ),
        Table(
            name="parameters",
            rows=(
                *_parameter("paper", "ccta_weight", "lambda", (0.1, 0.3, 0.5, 0.7, 0.9)),
                *_parameter("paper", "sigma", "sigma", (0.5, 1.0, 2.0, 4.0)),
                *_parameter("paper", "num_neighbours", "K", (1, 2, 4, 8)),
                *_parameter("best", "ccta_weight", "lambda", (0.1, 0.3, 0.5, 0.7, 0.9)),
                *_parameter("best", "sigma", "sigma", (0.5, 1.0, 2.0, 4.0)),
            ),
        ),
    )
}
"""By name. `parameters` is no table of the paper, which says which K, sigma and lambda it took, not what others give. K has no rows
with `best`, whose pull is not differentiated: there K changes no gradient."""
