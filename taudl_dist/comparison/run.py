"""A training run as comparing sees it, and its reading from a run folder; a run that is going on or has failed can be read too."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from taudl_dist.config import Config, flatten, load_yaml, to_dict
from taudl_dist.errors import UserError
from taudl_dist.evaluation.measure import RANKED, UNLABELLED

LOSSES = ("loss", "pctd", "ccta")
FOLLOWED = ("rank1", RANKED, UNLABELLED)
"""Evaluations whose course over the steps is of interest."""
DIGEST_LENGTH = 36
"""Characters of a dataset's digest that are compared; MLflow keeps no more of an evaluation's."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number over the steps of a run, steps ascending."""

    steps: np.ndarray
    values: np.ndarray

    def joined(self, other: Curve | None) -> Curve:
        """The points of both, where both have a step that of `other`."""
        if other is None:
            return self
        points = {**dict(zip(self.steps, self.values)), **dict(zip(other.steps, other.values))}
        steps = sorted(points)
        return Curve(steps=np.array(steps), values=np.array([points[step] for step in steps]))

    def final(self) -> float:
        """Mean over the last twentieth of the values: one step's loss is mostly chance."""
        return float(self.values[-max(1, len(self.values) // 20) :].mean())


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run."""

    name: str
    place: str
    """Its folder, or its id in MLflow."""
    status: str
    """finished, running, stopped (by a signal or --stop-at) or failed."""
    settings: Mapping[str, str]
    """Flat settings that change the result, as text."""
    facts: Mapping[str, str]
    """What else may explain a difference: dataset, version of the code, number of workers."""
    dataset_digest: str
    curves: Mapping[str, Curve]
    """Losses, and evaluations at several steps, by name."""
    evaluations: Mapping[str, float] = field(default_factory=dict)
    """Numbers of `taudl evaluate`, without `eval/`."""
    evaluated_on: frozenset[str] = frozenset()
    """Digests of the datasets it was evaluated on, their first DIGEST_LENGTH characters."""
    weights_sha256: str | None = None
    parent: str | None = None
    """Name of the sweep it belongs to."""
    tracked: Mapping[str, Any] | None = None
    """Where it stands in MLflow: uri, run_id, model_id."""

    @property
    def steps(self) -> int:
        """Steps done."""
        curve = self.curves.get("loss")
        return int(curve.steps[-1]) + 1 if curve else 0


def read_run(path: str | Path) -> Run:
    """The run of a folder, without what MLflow holds of it.

    Raises:
        UserError: no run there, or files that are not what a run wrote.
    """
    from taudl_dist.training.evaluations import Evaluations
    from taudl_dist.training.run_folder import RunFolder

    folder = Path(path)
    if not (folder / "run.json").is_file():
        raise UserError(f"{path}: no run.json in it; expected a run folder of `taudl train`")
    info = RunFolder(path=folder).info()
    settings = _settings(folder / "config.yaml")
    code, outcome = info["code"], info["outcome"] or {}
    rows = [row for row in Evaluations(run=folder).rows() if "metrics" in row]
    attempts = [str(attempt.get("world_size", "?")) for attempt in info["attempts"]]
    return Run(
        name=folder.resolve().name,
        place=str(path),
        status=_status(folder, outcome, steps=int(settings.get("steps", 0))),
        settings=only_decisive(settings),
        facts=facts(
            dataset=info["dataset"]["path"],
            version=code["version"],
            commit=code["git_sha"],
            is_dirty=bool(code["git_dirty"]),
            workers=", ".join(dict.fromkeys(attempts)) or info["workers"],
        ),
        dataset_digest=info["dataset"]["digest"],
        curves={**_curves(folder / "metrics.jsonl"), **_courses(rows)},
        evaluations=rows[-1]["metrics"] if rows else {},
        evaluated_on=frozenset(row["dataset_digest"][:DIGEST_LENGTH] for row in rows),
        weights_sha256=(outcome.get("model") or {}).get("sha256"),
        tracked=info["mlflow"],
    )


def only_decisive(settings: Mapping[str, str]) -> dict[str, str]:
    """Without the settings that do not change a run's result: places, workers, tracking, checkpoints."""
    from taudl_dist.training.run_folder import decisive

    default = Config()
    free = set(flatten(to_dict(default))) - set(decisive(default))
    return {name: value for name, value in settings.items() if name not in free}


def facts(*, dataset: str, version: str, commit: str | None, is_dirty: bool, workers: str) -> dict[str, str]:
    """The facts of a run in one form, wherever it was read."""
    code = f"{version} {commit[:10]}{' (changed)' if is_dirty else ''}" if commit else version
    return {"dataset": dataset, "code": code, "workers": workers}


def distinct_names(runs: list[Run]) -> list[Run]:
    """The runs, those of one name told apart by their place."""
    names = [run.name for run in runs]
    return [replace(run, name=run.place) if names.count(run.name) > 1 else run for run in runs]


def _status(folder: Path, outcome: Mapping[str, Any], *, steps: int) -> str:
    if _is_locked(folder / "lock"):
        return "running"
    if not outcome:
        return "failed"
    return "finished" if outcome["step"] >= steps else "stopped"


def _is_locked(path: Path) -> bool:
    """Whether a driver holds the run; False on a file system that keeps no locks."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _settings(path: Path) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in flatten(load_yaml(path)).items()}
    except UserError as error:
        raise UserError(f"{path} is not what a run wrote ({error}); leave the run out") from None


def _courses(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Evaluations over the steps, from evaluations.jsonl."""
    courses = {}
    for name in FOLLOWED:
        points = [(row["step"], row["metrics"][name]) for row in rows if name in row["metrics"]]
        if points:
            steps, values = np.array(points, np.float64).T
            courses[name] = Curve(steps=steps, values=values)
    return courses


def _curves(path: Path) -> dict[str, Curve]:
    from taudl_dist.evaluation.figures import read_metrics

    if not path.is_file():
        return {}
    try:
        columns = read_metrics(path)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what a run wrote ({error!r}); leave the run out") from None
    return {name: Curve(steps=columns["step"], values=columns[name]) for name in LOSSES if len(columns["step"])}
