"""Features as points in the plane (t-SNE), coloured by person and by camera: do people come together, or cameras?

The same features give the same picture: a fixed start from the principal components, one thread, no random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.evaluation.distances import Metric
from taudl_dist.evaluation.drawing import COLOURS, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 5
"""Points below which there is no map to draw."""
_MOST_COMPONENTS = 50
"""Principal components that t-SNE works on: what is left out is little, and would cost time."""
_MARKERS = "os^DvP*X<>pd"
_GREY = "#d4d4d4"


def plane(features: np.ndarray, *, metric: Metric = "euclidean") -> np.ndarray:
    """Points (N, 2) of features (N, D), N at least FEWEST: t-SNE of perplexity 30, less where there are fewer than 100 points."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums of several threads would differ from run to run
        components = _principal_components(features, is_direction=metric == "cosine")
        deviation = components[:, :1].std() if components.size else 0.0
        start = np.zeros((len(features), 2), np.float32)
        start[:, : components.shape[1]] = components[:, :2] * (1e-4 / deviation if deviation > 0 else 0)
        perplexity = min(30.0, (len(features) - 1) / 3)
        return TSNE(perplexity=perplexity, init=start, random_state=0, n_jobs=1).fit_transform(components)


def feature_map(points: np.ndarray, *, cameras: Sequence[str], people: np.ndarray | None = None) -> bytes:
    """Points (N, 2) by camera, and beside that by person where they are known.

    Args:
        cameras: name of the camera of each point.
        people: (N,) number of the person, twelve of whom get a colour and the others grey; None: one panel.
    """
    panels = 1 if people is None else 2
    figure = new_figure(6.2 * panels, 6.6)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if people is not None:
        _by_person(axes[0], points, people, cameras)
    _by_camera(axes[-1], points, cameras)
    return png(figure)


def shown_people(people: np.ndarray, cameras: Sequence[str], *, count: int = len(COLOURS)) -> list[int]:
    """People whom at least two cameras saw, evenly spaced by number, as many as there are colours at most."""
    pairs = set(zip(people.tolist(), cameras))
    seen: dict[int, int] = {}
    for person, _ in sorted(pairs):
        seen[person] = seen.get(person, 0) + 1
    several = [person for person, num_cameras in seen.items() if num_cameras > 1 and person > 0]
    return [several[place * len(several) // count] for place in range(count)] if len(several) > count else several


def _by_person(axes: Axes, points: np.ndarray, people: np.ndarray, cameras: Sequence[str]) -> None:
    chosen = shown_people(people, cameras)
    is_other = ~np.isin(people, chosen)
    _dots(axes, points[is_other], _GREY, "o", "others", size=14)
    names = sorted(set(cameras))
    has_shapes = len(names) <= len(_MARKERS)
    marker_of = {camera: _MARKERS[number] if has_shapes else "o" for number, camera in enumerate(names)}
    for number, person in enumerate(chosen):
        rows = np.flatnonzero(people == person).tolist()
        for camera in sorted({cameras[row] for row in rows}):
            of_camera = [row for row in rows if cameras[row] == camera]
            _dots(axes, points[of_camera], COLOURS[number], marker_of[camera], "", size=46)
    handles = [_handle(COLOURS[number], "o", f"person {person}") for number, person in enumerate(chosen)]
    handles += [_handle(_GREY, "o", "others")] if is_other.any() else []
    handles += [_handle("#888888", marker, camera) for camera, marker in marker_of.items()] if has_shapes else []
    _finish(axes, "by person (shape: camera)" if has_shapes else "by person", handles)


def _by_camera(axes: Axes, points: np.ndarray, cameras: Sequence[str]) -> None:
    names = sorted(set(cameras))
    handles = []
    for number, name in enumerate(names):
        rows = [row for row, camera in enumerate(cameras) if camera == name]
        colour = COLOURS[number % len(COLOURS)]
        marker = _MARKERS[number // len(COLOURS) % len(_MARKERS)]
        _dots(axes, points[rows], colour, marker, name, size=18)
        handles.append(_handle(colour, marker, name))
    shown = handles[:24] + ([_handle(_GREY, "o", f"... {len(names) - 24} more")] if len(names) > 24 else [])
    _finish(axes, "by camera", shown)


def _dots(axes: Axes, points: np.ndarray, colour: str, marker: str, label: str, *, size: float) -> None:
    axes.scatter(
        points[:, 0], points[:, 1], s=size, c=colour, marker=marker, label=label, linewidths=0.4, edgecolors="white"
    )


def _handle(colour: str, marker: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=label, markersize=6)


def _finish(axes: Axes, title: str, handles: Sequence[Any]) -> None:
    axes.set(title=title, xticks=[], yticks=[])
    axes.margins(0.04)
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=5, frameon=False, fontsize=8,
        columnspacing=1.0, handletextpad=0.2,
    )  # fmt: skip


def _principal_components(features: np.ndarray, *, is_direction: bool) -> np.ndarray:
    """(N, C) float32, the largest first; each points so that its largest weight is positive, which a solver leaves open."""
    rows = features.astype(np.float64)
    if is_direction:
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    left, values, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    return (left * values * signs)[:, :_MOST_COMPONENTS].astype(np.float32)
