"""One HTML file that tells a run: what it is worth, what it finds, what it was. Self-contained, readable without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.atomic import whole_file
from taudl_dist.evaluation import figures, samples
from taudl_dist.evaluation.evaluate import RATES, Ranked, conditions
from taudl_dist.evaluation.page import facts_table, page, pictures, section
from taudl_dist.evaluation.probes import Probes
from taudl_dist.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset


def write_report(
    path: str | Path,
    *,
    result: Mapping[str, Any],
    ranked: Sequence[Ranked],
    probes: Probes,
    protocol: Protocol,
    dataset: Dataset,
    run: Path,
) -> None:
    """Writes the report of an evaluation; loss curves and settings come from the run folder where it has them."""
    from taudl_dist.dataset import TrackletReader

    reader = TrackletReader(dataset)
    metric, model = protocol.metric, ranked[0]
    curves = {"CMC": figures.cmc_curve({row.name: row.metrics.cmc for row in ranked})}
    if (run / "metrics.jsonl").is_file():
        curves["losses"] = figures.loss_curves(figures.read_metrics(run / "metrics.jsonl"))
    lists = samples.rank_lists(reader, probes, model, metric=metric, count=12, top=10)
    distances = samples.cross_camera_distances(probes, model, metric=metric, count=200)
    sheet = samples.training_tracklets(reader, dataset, per_camera=3, frames=10)
    sections = [
        section("Results", _results(result)),
        section("Curves", pictures(curves), "How often the first match stands at a rank or before it, and the losses of the training."),
        section(
            "Rank lists",
            pictures({"rank lists": figures.rank_lists(lists)}),
            "Queries evenly spaced over those with a match, not chosen by result. Green: the same person in another"
            " camera. Red: someone else. The person's tracklets of the query's own camera are left out. Below: distances.",
        ),
        section(
            "Distances",
            pictures({"distances": figures.distance_histogram(*distances, label=f"{metric} distance")}),
            "The less the two overlap, the better the features tell people apart.",
        ),
        section("Training tracklets", pictures({"tracklets": figures.contact_sheet(sheet)}), "Some of what the network learned from."),
        section("Facts", facts_table(facts(result, dataset, run))),
    ]  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(page(f"{run.resolve().name} on {dataset.name}", sections), encoding="utf-8")


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


def _results(result: Mapping[str, Any]) -> str:
    rows = [{**result, "name": "model"}, *result.get("baselines", [])]
    head = "".join(f"<th>{title}</th>" for title in ("", *RATES.values()))
    body = "".join(
        f"<tr><td>{html.escape(row['name'])}</td>{''.join(f'<td>{100 * row[c]:.1f}</td>' for c in RATES)}</tr>\n"
        for row in rows
    )
    note = f"In percent; {conditions(result)}. Identities serve this evaluation alone: no training reads one."
    return f'<table class="results"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table><p>{note}</p>'
