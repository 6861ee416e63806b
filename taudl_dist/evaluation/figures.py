"""Pictures of an evaluation, drawn without a display: the same arguments give the same bytes.

Curves come from matplotlib, montages of images from Pillow. Every function returns a PNG file as bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image, ImageDraw

RIGHT, WRONG, QUERY = (0, 150, 60), (210, 30, 40), (30, 90, 200)
"""Frame colours of a rank list: a match, another person, and the query itself."""

IMAGE_HEIGHT, IMAGE_WIDTH = 128, 64
BORDER, GAP, MARGIN, CAPTION = 4, 6, 12, 18
"""Pixels of a montage: frame around an image, space between images, edge of the picture, line of text under an image."""
QUERY_GAP = 28
"""Pixels between the query and its first gallery image."""

_COLOURS = ("#1f5fbf", "#c8781e", "#6b8f3c", "#8a4fa3", "#b0343c", "#3c8f8f")


_DASHES = ("-", "--", ":", "-.")
_MOST_POINTS, _MOST_NAMES = 1000, 24
"""Points of a line and names in a legend, where runs are compared."""


@dataclass(frozen=True, kw_only=True)
class RankList:
    """A query and what the ranking found for it, the same-camera images of the same person left out."""

    query: bytes
    """An encoded image, as are those of the gallery."""
    gallery: Sequence[bytes]
    is_match: Sequence[bool]
    distances: Sequence[float]


def cmc_curve(curves: Mapping[str, Sequence[float] | np.ndarray]) -> bytes:
    """Matching rate in percent over the rank, a line for each name; rank 1 stands in the legend."""
    figure, axes = _axes(6.4, 4.2)
    for colour, (name, cmc) in zip(_colours(len(curves)), curves.items()):
        percent = 100 * np.asarray(cmc)
        axes.plot(np.arange(1, len(percent) + 1), percent, color=colour, label=f"{name} (R1 {percent[0]:.1f} %)")
    last = max(map(len, curves.values()))
    axes.set(xlabel="rank", ylabel="matching rate in %", ylim=(0, 101), xlim=(1, max(2, last)))
    axes.set_xticks([rank for rank in (1, 5, 10, 20, 30, 40, 50, 100) if rank <= last])
    axes.legend(frameon=False)
    return _png(figure)


def loss_curves(metrics: Mapping[str, np.ndarray]) -> bytes:
    """Loss, PCTD and CCTA over the steps, as `read_metrics` gives them: every step pale, the running mean strong."""
    figure, axes = _axes(6.4, 4.2)
    names = [name for name in ("loss", "pctd", "ccta") if np.isfinite(metrics[name]).any()]
    for colour, name in zip(_colours(len(names)), names):
        axes.plot(metrics["step"], metrics[name], color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(metrics["step"], _running_mean(metrics[name]), color=colour, label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    return _png(figure)


def curves_of_runs(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], *, colours: Mapping[str, int]
) -> bytes:
    """A panel for each number and a line for each run in it, all in one picture.

    Args:
        panels: title -> name of a run -> steps and values; drawn as running means over a twentieth of the values.
        colours: name of a run -> number of its colour; runs of one colour differ in their dashes.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.3 * rows + 0.6), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    dashes = {name: _order(name, colours) for name in colours}
    for axes, (title, runs) in zip(grid, panels.items()):
        for name, (steps, values) in runs.items():
            shown = evenly_many(len(steps), _MOST_POINTS)
            (line,) = axes.plot(
                steps[shown],
                _running_mean(values)[shown],
                color=_COLOURS[colours[name] % len(_COLOURS)],
                linestyle=_DASHES[dashes[name] % len(_DASHES)],
                marker="o" if len(steps) == 1 else None,
            )
            lines.setdefault(name, line)
        axes.set(title=title, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    legend = list(lines)[:_MOST_NAMES]
    figure.legend([lines[name] for name in legend], legend, loc="outside lower center", ncols=4, frameon=False)
    return _png(figure)


def evenly_many(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` values, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def distance_histogram(same: np.ndarray, different: np.ndarray, *, label: str = "distance") -> bytes:
    """Densities of distances between cameras: of one person's tracklets, and of different people's."""
    figure, axes = _axes(6.4, 4.2)
    edges = np.histogram_bin_edges(np.concatenate([same, different]), bins=60)
    groups = [(different, WRONG, "different people"), (same, RIGHT, "same person")]
    for values, colour, name in (group for group in groups if len(group[0])):
        axes.hist(
            values,
            edges.tolist(),
            density=True,
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha=0.5,
            label=f"{name} ({len(values):,} pairs)",
        )
    axes.set(xlabel=f"{label} between two cameras", ylabel="density")
    axes.legend(frameon=False)
    return _png(figure)


def rank_lists(lists: Sequence[RankList]) -> bytes:
    """A row a query: the query framed blue, a gap, then its ranking framed green (right) or red (wrong), distance below."""
    longest = max(len(entry.gallery) for entry in lists)
    width = _column(longest) + MARGIN
    canvas, draw = _canvas(width, MARGIN + len(lists) * _row_height())
    for row, entry in enumerate(lists):
        top = MARGIN + row * _row_height()
        _paste(canvas, entry.query, MARGIN, top, QUERY)
        _write(draw, "query", MARGIN, top)
        for rank, (image, is_match, distance) in enumerate(zip(entry.gallery, entry.is_match, entry.distances)):
            _paste(canvas, image, _column(rank), top, RIGHT if is_match else WRONG)
            _write(draw, f"{distance:#.3g}", _column(rank), top)
    return _encode(canvas)


def contact_sheet(tracklets: Mapping[str, Sequence[bytes]]) -> bytes:
    """A row a tracklet: its caption, then its images in time order."""
    longest = max(map(len, tracklets.values()))
    text = 120
    step = IMAGE_WIDTH + GAP
    height = IMAGE_HEIGHT + GAP
    canvas, draw = _canvas(2 * MARGIN + text + longest * step - GAP, 2 * MARGIN + len(tracklets) * height - GAP)
    for row, (caption, images) in enumerate(tracklets.items()):
        top = MARGIN + row * height
        draw.multiline_text((MARGIN, top + 4), caption, fill=(40, 40, 40), font=_font(), spacing=5)
        for column, image in enumerate(images):
            canvas.paste(_open(image), (MARGIN + text + column * step, top))
    return _encode(canvas)


def read_metrics(path: str | Path) -> dict[str, np.ndarray]:
    """The columns step, loss, pctd, ccta of a run's metrics.jsonl; of a step logged twice (a resumed run) the later line."""
    lines = Path(path).read_text().splitlines()
    by_step: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise
            break  # the line a running or killed training was writing
        by_step[record["step"]] = record
    names = ("step", "loss", "pctd", "ccta")
    rows = [[by_step[step].get(name) for name in names] for step in sorted(by_step)]
    return dict(zip(names, np.array(rows, dtype=np.float64).reshape(-1, len(names)).T))


def _axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})  # no version inside: same bytes anywhere
    return stream.getvalue()


def _colours(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _order(name: str, colours: Mapping[str, int]) -> int:
    """How many runs of the same colour stand before this one."""
    return [other for other in colours if colours[other] == colours[name]].index(name)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last twentieth of the curve at each point."""
    window = max(1, len(values) // 20)
    total = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def _column(rank: int) -> int:
    """Left edge of the gallery image at a rank, from 0."""
    return MARGIN + _framed_width() + QUERY_GAP + rank * (_framed_width() + GAP)


def _framed_width() -> int:
    return IMAGE_WIDTH + 2 * BORDER


def _row_height() -> int:
    return IMAGE_HEIGHT + 2 * BORDER + CAPTION + GAP


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), "white")
    return canvas, ImageDraw.Draw(canvas)


def _paste(canvas: Image.Image, image: bytes, left: int, top: int, colour: tuple[int, int, int]) -> None:
    canvas.paste(colour, (left, top, left + _framed_width(), top + IMAGE_HEIGHT + 2 * BORDER))
    canvas.paste(_open(image), (left + BORDER, top + BORDER))


def _write(draw: ImageDraw.ImageDraw, text: str, left: int, top: int) -> None:
    middle = left + _framed_width() / 2
    below = top + IMAGE_HEIGHT + 2 * BORDER + 2
    draw.text((middle, below), text, fill=(60, 60, 60), font=_font(), anchor="ma")


def _open(image: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(image)).convert("RGB").resize((IMAGE_WIDTH, IMAGE_HEIGHT))


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=12)


def _encode(canvas: Image.Image) -> bytes:
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()
