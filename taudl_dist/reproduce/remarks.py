"""What differs from the paper, in plain sentences: a number means nothing without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taudl_dist.config import RECIPES, flatten, to_dict
from taudl_dist.dataset import Dataset
from taudl_dist.evaluation.protocols import BENCHMARKS
from taudl_dist.reproduce.experiment import Experiment, Outcome, is_imported_duplication
from taudl_dist.reproduce.published import is_in, published

_SAID: dict[str, Callable[[Any, Any], str]] = {
    "model.name": lambda ours, theirs: f"network {ours}, not {theirs}",
    "model.weights": lambda ours, theirs: (
        f"{f'weights of {ours}' if ours else 'random weights'} at the start, where the paper's are {theirs}"
    ),
    "model.feature_dim": lambda ours, theirs: f"{ours} features, not {theirs:,}",
    "batch.images": lambda ours, theirs: f"batches of at most {ours} images, not {theirs}",
    "batch.height": lambda ours, theirs: f"images {ours} pixels high, not {theirs}",
    "batch.width": lambda ours, theirs: f"images {ours} pixels wide, not {theirs}",
    "optim.lr": lambda ours, theirs: f"learning rate {ours:g}, not {theirs:g}",
    "loss.ccta_weight": lambda ours, theirs: f"lambda {ours:g}, not {theirs:g}",
    "loss.sigma": lambda ours, theirs: f"sigma {ours:g}, not {theirs:g}",
    "loss.num_neighbours": lambda ours, _: f"K = {ours}, not half the number of cameras",
}


def remarks(experiment: Experiment, outcomes: Sequence[Outcome] = ()) -> list[str]:
    """Sentences about settings, data, recipes and code; settings that rows decide stand in the rows."""
    found = [*_settings(experiment), _steps(experiment)]
    for name, members in experiment.groups.items():
        found += _data(experiment, name, members)
    found += _recipes(experiment)
    if experiment.has_duplication:
        found += _duplication(experiment)
    if experiment.frames:
        found.append(f"{experiment.frames} evenly spaced frames of each tracklet at test, not all")
    codes = sorted({outcome.code for outcome in outcomes if outcome.code})
    return [*found, f"trained by the code of {', '.join(codes)}"] if codes else found


def _settings(experiment: Experiment) -> list[str]:
    """Settings common to all rows that are not the paper's."""
    from taudl_dist.model.backbone import feature_dim

    resolved = experiment.config(experiment.rows[0], seed=experiment.seeds[0])
    config = {**flatten(to_dict(resolved)), "model.feature_dim": feature_dim(resolved.model)}
    paper = published()["settings"]
    decided = experiment.table.decided
    return [
        _SAID[name](config[name], paper[name]) for name in paper if name not in decided and config[name] != paper[name]
    ]


def _steps(experiment: Experiment) -> str:
    steps = experiment.config(experiment.rows[0], seed=experiment.seeds[0]).steps
    counted = published()["steps_of_released_code"]
    known = [f"{counted[name]:,} on {name}" for name in experiment.groups if name in counted]
    theirs = f"; the released code takes {', '.join(known)}" if known else ""
    return f"{steps:,} steps (the paper states no number{theirs})"


def _recipes(experiment: Experiment) -> list[str]:
    """How a recipe with CCTA departs from the equations, as config.py has it; what `pctd` and `jcc` leave out is their purpose."""
    found = []
    for recipe in sorted({row.recipe for row in experiment.rows} - {"paper", "pctd", "jcc"}):
        changes = ", ".join(f"{name}={value}" for name, value in flatten(RECIPES[recipe]).items())
        found.append(f"recipe {recipe} is not Eq. 1-4 as printed: {changes} (`taudl train --help` explains them)")
    return found


def _data(experiment: Experiment, name: str, members: tuple[Dataset, ...]) -> list[str]:
    table, found = experiment.table.name, []
    settings = members[0].info["settings"]
    if not is_in(table, name):
        found.append(f"{name}: no published numbers in this table")
    if "benchmark" not in settings:
        found.append(
            f"{name}: labels come from SSTT on tracks, where the paper simulates SSTT with the identities of a benchmark"
        )
    if settings.get("boxes") == "labelled":
        found.append(f"{name}: people as marked by hand, where the paper's 14,097 images are a detector's")
    if settings.get("identities"):
        found.append(f"{name}: only the first {settings['identities']} training identities")
    if members[0].info.get("source", {}).get("mismatches"):
        found.append(f"{name}: this copy's counts are not those of the complete benchmark")
    splits = BENCHMARKS[name].num_splits if name in BENCHMARKS else 1
    if splits > len(members):
        found.append(f"{name}: {len(members)} of the {splits} splits that published numbers average")
    return found


def _duplication(experiment: Experiment) -> list[str]:
    found = []
    for name, members in experiment.groups.items():
        if not is_imported_duplication(members):
            found.append(
                f"{name}: duplication by cutting tracklets in two, each half under a label of its own, on top of what the data"
                " has; the paper draws a second tracklet of the identity, which adds images"
            )
    return found
