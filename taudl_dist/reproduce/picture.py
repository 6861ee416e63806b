"""Rates over the duplication of identities (Table 6), as a picture."""

from __future__ import annotations

from taudl_dist.evaluation.drawing import COLOURS, new_axes, png
from taudl_dist.evaluation.evaluate import RATES
from taudl_dist.reproduce import published
from taudl_dist.reproduce.result import Block
from taudl_dist.reproduce.tables import TABLES

_SHOWN = ("rank1", "mAP")


def duplication_curves(table: str, block: Block) -> bytes | None:
    """R1 and mAP of each recipe, mean and deviation, and the published ones dashed, as PNG; None where fewer than two points are."""
    lines = {line.name: line for line in block.lines}
    rows = [row for row in TABLES[table].rows if row.duplication is not None and row.name in lines]
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    figure, axes = new_axes(6.4, 4.2)
    most_points = 0
    for number, recipe in enumerate(recipes):
        own = [(100 * (row.duplication or 0.0), lines[row.name]) for row in rows if row.recipe == recipe]
        for rate, marker in zip(_SHOWN, "os"):
            points = [
                (share, line.numbers[rate].mean, line.numbers[rate].deviation or 0.0)
                for share, line in own
                if line.numbers[rate].mean is not None
            ]
            most_points = max(most_points, len(points))
            if points:
                share, mean, deviation = zip(*points)
                label = f"{RATES[rate]}, recipe {recipe}"
                axes.errorbar(
                    share,
                    mean,
                    yerr=deviation,
                    color=COLOURS[number],
                    marker=marker,
                    markersize=4,
                    capsize=3,
                    label=label,
                )
    if most_points < 2:
        return None
    if block.is_published:
        for rate, marker in zip(_SHOWN, "os"):
            printed = [
                (float(row.strip(" %")), published.numbers(table, row, block.name)[rate])
                for row in published.rows(table)
            ]
            axes.plot(
                *zip(*printed), "--", marker=marker, color="#777777", markersize=4, label=f"{RATES[rate]}, published"
            )
    axes.set(xlabel="duplication of identities, in %", ylabel="%", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return png(figure)
