"""One HTML file that tells a run: what it is worth, what it finds, what it was. Self-contained, readable without a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.atomic import whole_file
from taudl_dist.evaluation import figures, samples
from taudl_dist.evaluation.evaluate import RATES, Ranked, conditions
from taudl_dist.evaluation.probes import Probes
from taudl_dist.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2.5em auto; padding: 0 1.5em }
h1 { font-size: 1.6em; margin-bottom: 0 }
h2 { font-size: 1.15em; margin: 2.2em 0 .6em }
p { color: #555; margin: .3em 0 .8em; max-width: 46em }
img { max-width: 100%; height: auto }
table { border-collapse: collapse }
td, th { padding: .25em 1.2em .25em 0; text-align: left; vertical-align: top; font-weight: inherit }
.results td, .results th { text-align: right; padding: .3em 1em; border-bottom: 1px solid #ddd }
.results td:first-child, .results th:first-child { text-align: left; padding-left: 0 }
.results tbody tr:first-child { font-weight: 600 }
.facts th { color: #777; white-space: nowrap }
.facts td { overflow-wrap: anywhere }
.side { display: flex; flex-wrap: wrap; gap: 1em }
.side img { flex: 1 1 22em; min-width: 0; max-width: 34em }
"""


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
        _section("Results", _results(result)),
        _section("Curves", _images(curves), "How often the first match stands at a rank or before it, and the losses of the training."),
        _section(
            "Rank lists",
            _images({"rank lists": figures.rank_lists(lists)}),
            "Queries evenly spaced over those with a match, not chosen by result. Green: the same person in another"
            " camera. Red: someone else. The person's tracklets of the query's own camera are left out. Below: distances.",
        ),
        _section(
            "Distances",
            _images({"distances": figures.distance_histogram(*distances, label=f"{metric} distance")}),
            "The less the two overlap, the better the features tell people apart.",
        ),
        _section("Training tracklets", _images({"tracklets": figures.contact_sheet(sheet)}), "Some of what the network learned from."),
        _section("Facts", _facts(facts(result, dataset, run))),
    ]  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(_page(f"{run.resolve().name} on {dataset.name}", sections), encoding="utf-8")


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


def _facts(known: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{_value(value)}</td></tr>\n" for name, value in known.items())
    return f'<table class="facts">{rows}</table>'


def _value(value: Any) -> str:
    text = html.escape(value if isinstance(value, str) else json.dumps(value))
    return f"<pre>{text}</pre>" if "\n" in text else text


def _images(pictures: Mapping[str, bytes]) -> str:
    images = [
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in pictures.items()
    ]
    return f'<div class="side">{"".join(images)}</div>' if len(images) > 1 else images[0]


def _section(title: str, content: str, note: str = "") -> str:
    return f"<h2>{title}</h2>\n{f'<p>{note}</p>' if note else ''}\n{content}\n"


def _page(title: str, sections: Sequence[str]) -> str:
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{''.join(sections)}</body></html>\n"
    )
