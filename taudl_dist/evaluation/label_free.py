"""What can be told of a model without a single identity: of the tracklets it was trained on, or any others with cameras.

Nothing here says how good a model is; benchmarks/RESULTS.md says how well each number follows rank-1 where identities are known. All
numbers are functions of the features; one that is undefined (one camera, one tracklet a camera) is left out, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.cross_camera import CrossCamera, Points, cross_camera
from taudl_dist.evaluation.distances import Metric
from taudl_dist.evaluation.features import embed, evenly_spaced, part_sizes
from taudl_dist.evaluation.spread import Spread, spread

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset
    from taudl_dist.model import ReidModel

MEANINGS = {
    "within_camera_accuracy": "tracklets whose second half of frames is nearest to their own first half, among the first halves"
    " of their camera",
    "effective_rank": "dimensions that the features fill; a few where they have collapsed",
    "associated": "tracklets that form a pair of mutual nearest neighbours with another camera, mean over cameras",
    "reciprocity": "tracklets that are the nearest neighbour, over all other cameras, of their own nearest neighbour",
    "nearer_than_own_camera": "tracklets whose nearest neighbour in another camera is nearer than every other tracklet of their own"
    " camera, which shows someone else; by chance the share of the other cameras' tracklets",
    "cross_camera_margin": "how much nearer the nearest neighbour in another camera is than the mean of the others there",
    "cross_camera_clearness": "how much nearer the nearest neighbour in another camera is than the second one there",
    "mean_cosine": "mean cosine of two tracklets' features; near 1 all point the same way",
    "dead_dimensions": "dimensions of the feature that do not vary",
    "feature_norm": "mean length of a feature",
    "feature_norm_deviation": "standard deviation of the lengths over their mean",
    "feature_variance": "mean variance of a dimension",
}
"""The metrics and what they are; those first that are worth watching most."""
SHARES = ("within_camera_accuracy", "nearer_than_own_camera", "reciprocity", "associated", "cross_camera_margin",
          "cross_camera_clearness", "dead_dimensions")  # fmt: skip
"""Those that are fractions."""
PREFIX = "label_free/"
"""Of their names in MLflow and in the result of `taudl evaluate --json`."""
WORTH = (
    "Watch the accuracy within cameras first: over 49 checkpoints of seven runs on synthetic video its rank correlation with rank-1"
    " was 0.97 (0.91 within a run, 0.65 in the worst). Neighbours between cameras mislead where a loss pulls them together: in a run that"
    " it had collapsed (rank-1 1 %), reciprocity, associated pairs and neighbours nearer than the own camera stood as high as in the"
    " best run (rank-1 45 %); the accuracy within cameras was 9 % instead of 74 %, the effective rank 5 instead of 73."
)
"""What the numbers were worth where identities are known; `python -m benchmarks.label_free` measures it."""
_WATCH = "watch within_camera_accuracy first, then effective_rank; neighbours between cameras look good in collapsed features too"
_MOST_CAMERAS = 12
"""Cameras of a matrix in text."""


@dataclass(frozen=True, kw_only=True)
class LabelFree:
    """The report without labels on N tracklets of T cameras."""

    features: np.ndarray
    """(N, D) of whole tracklets."""
    camera_of: np.ndarray
    """(N,) index into `cameras`."""
    metrics: dict[str, float]
    """By the names of MEANINGS; what is undefined is left out."""
    cameras: list[str]
    counts: np.ndarray
    """(T,) tracklets of each camera."""
    accuracy: np.ndarray
    """(T,) `within_camera_accuracy` of each camera; NaN where it has one tracklet, or none of two frames."""
    association: np.ndarray
    """(T, T) share of the row camera's tracklets in a mutual nearest pair with the column camera's; NaN on the diagonal."""
    variance: np.ndarray
    """(D,) variance of each dimension."""

    @property
    def flat(self) -> dict[str, float]:
        """The metrics by the names they have in MLflow and in a result."""
        return {f"{PREFIX}{name}": value for name, value in self.metrics.items()}

    def as_result(self) -> dict[str, Any]:
        """The metrics by those names, and under `label_free` what they are made of; ready for JSON."""
        accuracy = [_or_none(value) for value in self.accuracy.tolist()]
        details = {
            "num_tracklets": int(self.counts.sum()),
            "cameras": [
                {"camera": name, "num_tracklets": count, "within_camera_accuracy": value}
                for name, count, value in zip(self.cameras, self.counts.tolist(), accuracy)
            ],
            "association": [[_or_none(share) for share in row] for row in self.association.tolist()],
            "variance_quantiles": np.quantile(self.variance, (0, 0.25, 0.5, 0.75, 1)).tolist(),
        }
        return {**self.flat, "label_free": details}


def label_free(
    model: ReidModel, dataset: Dataset, *, frames: int = 0, metric: Metric = "euclidean", at_most: int = 0,
    device: str = "cpu",
) -> LabelFree:  # fmt: skip
    """The report of a model on the training tracklets of a dataset.

    Memory holds three features a tracklet, 2.5 GB for 10^5 of length 2,048; never a distance for each pair.

    Args:
        frames: evenly spaced frames of a tracklet; 0 takes all.
        at_most: about so many tracklets, evenly spaced within each camera; 0 takes all.

    Raises:
        UserError: no training tracklets, or features that are not finite.
    """
    rows = training_rows(dataset, at_most=at_most)
    halves = embed(model, dataset, rows, frames=frames, parts=2, device=device, label="training tracklets")
    sizes = part_sizes(np.asarray(rows["num_frames"]), frames=frames, parts=2)
    halves = halves.reshape(len(rows), 2, -1)
    halves[sizes[:, 1] == 0, 1] = halves[sizes[:, 1] == 0, 0]
    names, cameras = np.unique(rows["camera"].to_pylist(), return_inverse=True)
    return label_free_of_features(halves, sizes, cameras, names=names.tolist(), metric=metric)


def training_rows(dataset: Dataset, *, at_most: int = 0) -> pa.Table:
    """Manifest rows of training tracklets, without person ids; of more than `at_most`, evenly spaced ones of each camera.

    Raises:
        UserError: there are none.
    """
    from taudl_dist.dataset import read_manifest

    rows = read_manifest(dataset, splits=("train",)).drop_columns(["person_id"])
    if not len(rows):
        raise UserError(f"{dataset.location} has no training tracklets, and a report without labels is about those")
    if not 0 < at_most < len(rows):
        return rows
    _, cameras, counts = np.unique(rows["camera"].to_pylist(), return_inverse=True, return_counts=True)
    places = np.split(np.argsort(cameras, kind="stable"), np.cumsum(counts)[:-1])
    shares = [max(1, count * at_most // len(rows)) for count in counts.tolist()]
    return rows.take(np.concatenate([own[evenly_spaced(len(own), share)] for own, share in zip(places, shares)]))


def label_free_of_features(
    halves: np.ndarray, sizes: np.ndarray, cameras: np.ndarray, *, names: Sequence[str], metric: Metric = "euclidean"
) -> LabelFree:
    """The report of features.

    Args:
        halves: (N, 2, D) mean features of the first and the second half of each tracklet's frames; a half without frames holds
            numbers that do not count.
        sizes: (N, 2) frames in each half; the first has at least one.
        cameras: (N,) index into `names`.
        names: of the cameras; each has a tracklet.

    Raises:
        UserError: features that are not finite.
    """
    shares = (sizes / sizes.sum(1, keepdims=True)).astype(halves.dtype)
    whole = halves[:, 0] * shares[:, :1] + halves[:, 1] * shares[:, 1:]
    found, form = cross_camera(whole, cameras, metric=metric), spread(whole)
    is_right = within_camera(halves, sizes[:, 1] > 0, cameras, metric=metric)
    association = found.mutual / found.counts[:, None].astype(float)
    np.fill_diagonal(association, np.nan)
    metrics = {"within_camera_accuracy": _mean(is_right), **_across(found), **_form(form, len(whole))}
    return LabelFree(
        features=whole,
        camera_of=cameras,
        metrics={name: metrics[name] for name in MEANINGS if not math.isnan(metrics[name])},
        cameras=list(names),
        counts=found.counts,
        accuracy=np.array([_mean(is_right[cameras == camera]) for camera in range(len(names))]),
        association=association,
        variance=form.variance,
    )


def within_camera(
    halves: np.ndarray, has_second: np.ndarray, cameras: np.ndarray, *, metric: Metric = "euclidean"
) -> np.ndarray:
    """(N,) 1 where a tracklet's second half is nearer to its own first half than to any other of its camera, else 0.

    NaN where nothing can be told: no second half, or no other tracklet. A tie is wrong: features that are all equal tell nobody apart.
    """
    points = Points(halves.reshape(-1, halves.shape[2]), metric=metric)
    is_right = np.full(len(halves), np.nan)
    for camera in np.unique(cameras):
        rows = np.flatnonzero(cameras == camera)
        asked = rows[has_second[rows]]
        if len(rows) < 2 or not len(asked):
            continue
        own, others = np.empty(len(asked)), np.full(len(asked), np.inf)
        for above, aside, tile in points.distances(2 * asked + 1, 2 * rows):
            place = np.searchsorted(rows, asked[above]) - aside.start
            inside = np.flatnonzero((place >= 0) & (place < tile.shape[1]))
            own[above.start + inside] = tile[inside, place[inside]]
            tile[inside, place[inside]] = np.inf
            others[above] = np.minimum(others[above], tile.min(1))
        is_right[asked] = own < others
    return is_right


def text(result: Mapping[str, Any]) -> str:
    """`LabelFree.as_result` as a table with a remark for each number; then the camera pairs of at most twelve cameras."""
    metrics, details = (
        {name: result[PREFIX + name] for name in MEANINGS if PREFIX + name in result},
        result["label_free"],
    )
    cameras, width = [entry["camera"] for entry in details["cameras"]], max(map(len, metrics))
    lines = [f"without labels: {details['num_tracklets']:,} training tracklets, cameras: {len(cameras)}"]
    lines += [f"{name:{width}}  {shown(name, value):>8}  {MEANINGS[name]}" for name, value in metrics.items()]
    lines += [_WATCH] if PREFIX + "within_camera_accuracy" in result else []
    if 1 < len(cameras) <= _MOST_CAMERAS:
        column = max(8, *map(len, cameras)) + 2
        lines += ["", "tracklets in mutual nearest pairs between cameras, in percent of the row's"]
        lines += ["".join(f"{name:>{column}}" for name in ("", *cameras))]
        for name, row in zip(cameras, details["association"]):
            shares = ("-" if share is None else f"{100 * share:.1f}" for share in row)
            lines.append("".join(f"{word:>{column}}" for word in (name, *shares)))
    return "\n".join(lines)


def shown(name: str, value: float) -> str:
    """A metric as a reader wants it."""
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.3g}"


def _across(found: CrossCamera) -> dict[str, float]:
    has_nearest = found.nearest >= 0
    is_returned = found.nearest[found.nearest] == np.arange(len(found.nearest))
    own, distance = found.own[has_nearest], found.distance[has_nearest]
    has_own = np.isfinite(own)
    rest = found.rest[has_nearest]
    margin = np.where(rest > 0, 1 - distance / np.where(rest > 0, rest, 1), np.where(np.isnan(rest), np.nan, 0))
    num_cameras = len(found.cameras)
    return {
        "nearer_than_own_camera": _mean((distance < own)[has_own].astype(float)),
        "reciprocity": _mean(is_returned[has_nearest].astype(float)),
        "associated": float(found.mutual.sum() / (found.counts.sum() * (num_cameras - 1)))
        if num_cameras > 1
        else math.nan,
        "cross_camera_margin": _mean(margin),
        "cross_camera_clearness": _mean(found.clearness),
    }


def _form(form: Spread, num: int) -> dict[str, float]:
    of_several = {
        "effective_rank": form.effective_rank,
        "dead_dimensions": form.dead,
        "feature_norm_deviation": form.norm_deviation,
        "feature_variance": float(form.variance.mean()),
    }
    return {
        "mean_cosine": form.mean_cosine,
        "feature_norm": form.norm,
        **(of_several if num > 1 else dict.fromkeys(of_several, math.nan)),
    }


def _mean(values: np.ndarray) -> float:
    """Of those that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
