"""What all pictures share: matplotlib figures without a display, whose PNG files are the same bytes everywhere, and colours."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fbf", "#c8781e", "#6b8f3c", "#8a4fa3", "#b0343c", "#3c8f8f",
           "#e377c2", "#7f6040", "#bcbd22", "#17becf", "#333333", "#ff9896")  # fmt: skip
"""Twelve that can be told apart; lines of curves use the first six."""


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=110, layout="constrained")


def new_axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """A figure of one plot with a pale grid."""
    figure = new_figure(width_in, height_in)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})  # no version inside: same bytes anywhere
    return stream.getvalue()
