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

from taudl_dist.evaluation.activation import ActivationMap, overlaid
from taudl_dist.evaluation.drawing import COLOURS, new_axes, new_figure, png

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

RIGHT, WRONG, QUERY = (0, 150, 60), (210, 30, 40), (30, 90, 200)
"""Frame colours of a rank list: a match, another person, and the query itself."""

IMAGE_HEIGHT, IMAGE_WIDTH = 128, 64
BORDER, GAP, MARGIN, CAPTION = 4, 6, 12, 18
"""Pixels of a montage: frame around an image, space between images, edge of the picture, line of text under an image."""
QUERY_GAP = 28
"""Pixels between the query and its first gallery image."""

_LINES = COLOURS[:6]
_DASHES = ("-", "--", ":", "-.")
_MOST_POINTS, _MOST_NAMES = 1000, 24
"""Points of a line and names in a legend, where runs are compared."""
_MOST_CELLS, _MOST_TICKS, _FLAT_NAMES = 12, 20, 40
"""Cameras of a matrix with numbers in its cells, names along its edges, and letters of all names that fit side by side."""
_MAPS_A_ROW = 8


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
    figure, axes = new_axes(6.4, 4.2)
    for colour, (name, cmc) in zip(_colours(len(curves)), curves.items()):
        percent = 100 * np.asarray(cmc)
        axes.plot(np.arange(1, len(percent) + 1), percent, color=colour, label=f"{name} (R1 {percent[0]:.1f} %)")
    last = max(map(len, curves.values()))
    axes.set(xlabel="rank", ylabel="matching rate in %", ylim=(0, 101), xlim=(1, max(2, last)))
    axes.set_xticks([rank for rank in (1, 5, 10, 20, 30, 40, 50, 100) if rank <= last])
    axes.legend(frameon=False)
    return png(figure)


def loss_curves(metrics: Mapping[str, np.ndarray]) -> bytes:
    """Loss, PCTD and CCTA over the steps, as `read_metrics` gives them: every step pale, the running mean strong."""
    figure, axes = new_axes(6.4, 4.2)
    names = [name for name in ("loss", "pctd", "ccta") if np.isfinite(metrics[name]).any()]
    for colour, name in zip(_colours(len(names)), names):
        axes.plot(metrics["step"], metrics[name], color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(metrics["step"], _running_mean(metrics[name]), color=colour, label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    return png(figure)


def curves_of_runs(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], *, colours: Mapping[str, int]
) -> bytes:
    """A panel for each number and a line for each run in it, all in one picture.

    Args:
        panels: title -> name of a run -> steps and values; drawn as running means over a twentieth of the values.
        colours: name of a run -> number of its colour; runs of one colour differ in their dashes.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.4 * columns, 3.3 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    dashes = {name: _order(name, colours) for name in colours}
    for axes, (title, runs) in zip(grid, panels.items()):
        for name, (steps, values) in runs.items():
            shown = evenly_many(len(steps), _MOST_POINTS)
            (line,) = axes.plot(
                steps[shown],
                _running_mean(values)[shown],
                color=_LINES[colours[name] % len(_LINES)],
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
    return png(figure)


def evenly_many(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` values, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def distance_histogram(same: np.ndarray, different: np.ndarray, *, label: str = "distance") -> bytes:
    """Densities of distances between cameras: of one person's tracklets, and of different people's."""
    figure, axes = new_axes(6.4, 4.2)
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
    axes.set(xlabel=f"{label} of two tracklets of different cameras", ylabel="density")
    axes.legend(frameon=False)
    return png(figure)


def camera_matrix(shares: np.ndarray, *, cameras: Sequence[str]) -> bytes:
    """Shares (T, T) of the row camera's tracklets as colours, with the percentage written into each cell where there is room."""
    count = len(cameras)
    figure = new_figure(*(min(3.2 + 0.62 * count, 10), min(2.4 + 0.5 * count, 8.5)))
    axes = figure.subplots()
    most = max(0.01, float(np.nanmax(shares, initial=0)))
    image = axes.imshow(np.ma.masked_invalid(100 * shares), cmap="Blues", vmin=0, vmax=100 * most, aspect="auto")
    axes.set_facecolor("#eeeeee")  # what has no share: the diagonal
    shown = range(0, count, -(-count // _MOST_TICKS))
    names = [cameras[place] for place in shown]
    axes.set_yticks(shown, names)
    axes.set_xticks(shown, names)
    if max(map(len, names)) * count > _FLAT_NAMES:
        axes.tick_params("x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set(xlabel="in a mutual nearest pair with", ylabel="tracklets of")
    if count <= _MOST_CELLS:
        for row, column in np.argwhere(np.isfinite(shares)).tolist():
            colour = "white" if shares[row, column] > 0.6 * most else "#222222"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, ax=axes, label="percent of the row's tracklets")
    return png(figure)


def activation_sheet(maps: Sequence[ActivationMap]) -> bytes:
    """A column an image: the image, the same under the colours of its map, its caption; eight columns a row."""
    columns = min(_MAPS_A_ROW, len(maps))
    rows = -(-len(maps) // columns)
    width, height = IMAGE_WIDTH + MARGIN, 2 * IMAGE_HEIGHT + GAP + CAPTION + GAP
    canvas, draw = _canvas(MARGIN + columns * width, MARGIN + rows * height)
    for number, entry in enumerate(maps):
        left, top = MARGIN + number % columns * width, MARGIN + number // columns * height
        image = _open(entry.jpeg)
        canvas.paste(image, (left, top))
        canvas.paste(overlaid(image, entry.share), (left, top + IMAGE_HEIGHT + GAP))
        below = top + 2 * IMAGE_HEIGHT + GAP + 2
        caption = _fitting(draw, entry.caption, IMAGE_WIDTH + MARGIN - 2)
        draw.text((left + IMAGE_WIDTH / 2, below), caption, fill=(60, 60, 60), font=_font(), anchor="ma")
    return _encode(canvas)


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
        lines = [_fitting(draw, line, text - 4) for line in caption.splitlines()]
        draw.multiline_text((MARGIN, top + 4), "\n".join(lines), fill=(40, 40, 40), font=_font(), spacing=5)
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


def _colours(count: int) -> list[str]:
    return [_LINES[index % len(_LINES)] for index in range(count)]


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


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, or its beginning and its end where it is wider than so many pixels."""
    kept = len(text)
    short = text
    while draw.textlength(short, font=_font()) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}..{text[len(text) - kept // 2 :]}"
    return short


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
