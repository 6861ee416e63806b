"""One HTML file that tells a run: what it is worth, what it finds, what it was. Self-contained, readable without a network."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.atomic import whole_file
from taudl_dist.evaluation import figures, samples
from taudl_dist.evaluation.activation import activation_maps
from taudl_dist.evaluation.evaluate import RATES, Ranked, conditions
from taudl_dist.evaluation.feature_map import FEWEST, feature_map, plane
from taudl_dist.evaluation.features import evenly_spaced
from taudl_dist.evaluation.label_free import MEANINGS, WORTH, LabelFree, shown
from taudl_dist.evaluation.page import facts_table, page, pictures, section
from taudl_dist.evaluation.probes import Probes
from taudl_dist.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset, TrackletReader
    from taudl_dist.evaluation.distances import Metric
    from taudl_dist.model import ReidModel

_MAP_POINTS, _MAP_IMAGES = 600, 16
"""Tracklets on a map of features, and images with activation maps."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What was ranked, and how: the model first, then its baselines."""

    ranked: Sequence[Ranked]
    probes: Probes
    protocol: Protocol


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of a report."""

    title: str
    note: str = ""
    images: Mapping[str, bytes] | None = None
    """PNG files by name."""
    content: str = ""
    """HTML above the pictures."""

    def as_html(self) -> str:
        return section(self.title, self.content + (pictures(self.images) if self.images else ""), self.note)


def write_report(
    path: str | Path,
    *,
    result: Mapping[str, Any],
    dataset: Dataset,
    run: Path,
    ranking: Ranking | None = None,
    unlabelled: LabelFree | None = None,
    model: ReidModel | None = None,
) -> dict[str, bytes]:
    """Writes the report of an evaluation; loss curves and settings come from the run folder where it has them.

    Args:
        ranking: None: nothing was ranked, and the report is about `unlabelled`.
        unlabelled: the report without labels, if there is one.
        model: draws activation maps.

    Returns:
        The pictures (PNG) by name.
    """
    from taudl_dist.dataset import TrackletReader

    reader = TrackletReader(dataset)
    metric: Metric = ranking.protocol.metric if ranking else result["metric"]
    parts = [
        *(_ranked_parts(result, ranking, reader) if ranking else []),
        *([_unlabelled_part(unlabelled)] if unlabelled else []),
        *_losses(run),
        *_maps(ranking, unlabelled, metric),
        *([_activation(model, ranking, reader, dataset)] if model else []),
        *_training_tracklets(reader, dataset),
        Part(title="Facts", content=facts_table(facts(result, dataset, run))),
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        title = f"{run.resolve().name} on {dataset.name}"
        temporary.write_text(page(title, [part.as_html() for part in parts]), encoding="utf-8")
    return {name: image for part in parts for name, image in (part.images or {}).items()}


def facts(result: Mapping[str, Any], dataset: Dataset, run: Path) -> dict[str, Any]:
    """What the numbers trace back to: data, weights, settings, code, tracked run."""
    splits = dataset.info["splits"]
    known: dict[str, Any] = {
        "dataset": result["dataset"],
        "dataset digest": result["dataset_digest"],
        "cameras": len(dataset.cameras),
        "tracklets": ", ".join(f"{split} {counts['tracklets']:,}" for split, counts in splits.items()),
        "model": result["model"],
        "model digest": result["model_digest"],
        "frames per tracklet": result["frames"] or "all",
    }
    for name in ("model.json", "run.json"):
        if (run / name).is_file():
            known |= {f"{name[:-5]}: {key}": value for key, value in json.loads((run / name).read_text()).items()}
    if (run / "config.yaml").is_file():
        known["config"] = (run / "config.yaml").read_text()
    return known


def _ranked_parts(result: Mapping[str, Any], ranking: Ranking, reader: TrackletReader) -> list[Part]:
    probes, model, metric = ranking.probes, ranking.ranked[0], ranking.protocol.metric
    lists = samples.rank_lists(reader, probes, model, metric=metric, count=12, top=10)
    distances = samples.cross_camera_distances(probes, model, metric=metric, count=200)
    return [
        Part(title="Results", content=_results(result)),
        Part(
            title="CMC",
            note="How often the first match stands at a rank or before it.",
            images={"cmc": figures.cmc_curve({row.name: row.metrics.cmc for row in ranking.ranked})},
        ),
        Part(
            title="Rank lists",
            note="Queries evenly spaced over those with a match, not chosen by result. Green: the same person in another"
            " camera. Red: someone else. The person's tracklets of the query's own camera are left out. Below: distances.",
            images={"rank lists": figures.rank_lists(lists)},
        ),
        Part(
            title="Distances",
            note="The less the two overlap, the better the features tell people apart.",
            images={"distances": figures.distance_histogram(*distances, label=f"{metric} distance")},
        ),
    ]


def _unlabelled_part(report: LabelFree) -> Part:
    note = (
        f"Of {report.counts.sum():,} training tracklets; no identity is read. Compare these numbers between checkpoints and runs on one"
        f" dataset, at the same number of frames; alone they do not say how good a model is. {WORTH} Training drew its frames from both halves of a tracklet, so this"
        " accuracy is that of a fit, not of a test: once it stands near 100 % it tells nothing more."
    )
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{shown(name, value)}</td>"
        f'<td class="text">{html.escape(MEANINGS[name])}</td></tr>\n'
        for name, value in report.metrics.items()
    )
    cameras = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{count:,}</td><td>{'-' if math.isnan(value) else f'{100 * value:.1f} %'}</td></tr>\n"
        for name, count, value in zip(report.cameras, report.counts.tolist(), report.accuracy.tolist())
    )
    head = "<thead><tr><th>camera</th><th>tracklets</th><th>within camera accuracy</th></tr></thead>"
    content = (
        f'<table class="results plain"><tbody>\n{rows}</tbody></table>\n'
        f'<table class="results plain">{head}<tbody>\n{cameras}</tbody></table>\n'
    )
    several = len(report.cameras) > 1
    matrix = {"camera pairs": figures.camera_matrix(report.association, cameras=report.cameras)} if several else None
    return Part(title="Without labels", note=note, content=content, images=matrix)


def _losses(run: Path) -> list[Part]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    image = figures.loss_curves(figures.read_metrics(path))
    return [
        Part(
            title="Losses",
            note="Every step pale, the mean over a twentieth of the steps strong.",
            images={"losses": image},
        )
    ]


def _maps(ranking: Ranking | None, unlabelled: LabelFree | None, metric: Metric) -> list[Part]:
    """Of people never seen in training where they are known, else of training tracklets."""
    if ranking:
        features, people, cameras = samples.people_on_the_map(ranking.probes, ranking.ranked[0], at_most=_MAP_POINTS)
        note = (
            f"{len(features):,} query and gallery tracklets as points (t-SNE). Good features bring the tracklets of a person"
            " together, whatever the camera; where cameras form islands, features tell cameras instead."
        )
    else:
        assert unlabelled is not None
        rows = evenly_spaced(len(unlabelled.features), _MAP_POINTS)
        features, people = unlabelled.features[rows], None
        cameras = [unlabelled.cameras[camera] for camera in unlabelled.camera_of[rows].tolist()]
        note = f"{len(features):,} training tracklets as points (t-SNE). Where cameras form islands, features tell cameras and not people."
    if len(features) < FEWEST:
        return []
    image = feature_map(plane(features, metric=metric), cameras=cameras, people=people)
    return [Part(title="Map", note=note, images={"map": image})]


def _activation(model: ReidModel, ranking: Ranking | None, reader: TrackletReader, dataset: Dataset) -> Part:
    if ranking:
        images = samples.query_images(reader, ranking.probes, count=_MAP_IMAGES)
    else:
        images = samples.training_images(reader, dataset, count=_MAP_IMAGES)
    sheet = figures.activation_sheet(activation_maps(model, images))
    note = (
        "What each place of the last feature map adds to the feature's length (HiResCAM), red most, blue nothing, each image on its"
        " own scale. A feature that comes from the background follows the camera, not the person."
    )
    return Part(title="Where the feature comes from", note=note, images={"activation maps": sheet})


def _training_tracklets(reader: TrackletReader, dataset: Dataset) -> list[Part]:
    sheet = samples.training_tracklets(reader, dataset, per_camera=3, frames=10)
    if not sheet:
        return []
    image = figures.contact_sheet(sheet)
    return [
        Part(title="Training tracklets", note="Some of what the network learned from.", images={"tracklets": image})
    ]


def _results(result: Mapping[str, Any]) -> str:
    rows = [{**result, "name": "model"}, *result.get("baselines", [])]
    head = "".join(f"<th>{title}</th>" for title in ("", *RATES.values()))
    body = "".join(
        f"<tr><td>{html.escape(row['name'])}</td>{''.join(f'<td>{100 * row[c]:.1f}</td>' for c in RATES)}</tr>\n"
        for row in rows
    )
    note = f"In percent; {conditions(result)}. Identities serve this evaluation alone: no training reads one."
    return f'<table class="results"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table><p>{note}</p>'
