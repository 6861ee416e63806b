"""Runs read back from MLflow; beside taudl_dist.tracking, which writes them, the only module that knows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taudl_dist import tracking
from taudl_dist.comparison.run import DIGEST_LENGTH, FOLLOWED, LOSSES, Curve, Run, facts, only_decisive
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

_STATUS = {
    "FINISHED": "finished",
    "RUNNING": "running",
    "SCHEDULED": "running",
    "KILLED": "stopped",
    "FAILED": "failed",
}
_PARENT = "mlflow.parentRunId"
_EVALUATION = "eval/"
_FOLLOWED = tuple(_EVALUATION + name for name in FOLLOWED)


def find_runs(experiment: str, *, filter_string: str = "", uri: str = "") -> list[Run]:
    """The training runs of an experiment, oldest first; a sweep's parent names its children and is left out.

    Args:
        filter_string: as in MLflow's search, for instance "tags.recipe = 'best'".
        uri: empty: $MLFLOW_TRACKING_URI.

    Raises:
        UserError: no such experiment or run, a filter MLflow does not understand, or a server that does not answer.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise UsageError(
            "--experiment needs MLflow's address: give --uri (sqlite:///FILE or http://HOST:PORT), or set MLFLOW_TRACKING_URI"
        )
    client = _client(uri)
    try:
        found = _search(client, experiment, filter_string)
        if found is None:
            known = ", ".join(entry.name for entry in client.search_experiments(max_results=20))
            raise UserError(f"--experiment {experiment}: not in {uri}, which holds {known or 'none'}")
        parents = {run.data.tags[_PARENT] for run in found if _PARENT in run.data.tags}
        names = {run_id: client.get_run(run_id).info.run_name for run_id in sorted(parents)}
        runs = [_run(client, run, uri, names) for run in found if run.info.run_id not in parents]
    except UserError:
        raise
    except Exception as error:  # network, database, HTTP and MLflow errors have no common ancestor
        raise UserError(f"MLflow at {uri}: {_line(error)}") from None
    if not runs:
        raise UserError(f"--experiment {experiment}: no run matches --filter {filter_string!r}")
    return runs


def with_tracked(run: Run) -> Run:
    """A run from a folder, with the evaluations and the sweep that MLflow holds of it; a server out of reach costs a warning."""
    if run.tracked is None:
        return run
    uri, run_id = run.tracked["uri"], run.tracked["run_id"]
    try:
        client = _client(uri)
        found = client.get_run(run_id)
        parent = found.data.tags.get(_PARENT)
        courses = _curves(client, found, _FOLLOWED)
        return replace(
            run,
            evaluations={**run.evaluations, **_evaluations(found)},
            evaluated_on=run.evaluated_on | _evaluated_on(client, found),
            parent=client.get_run(parent).info.run_name if parent else None,
            curves={
                **courses,
                **{name: curve.joined(courses.get(name)) for name, curve in run.curves.items()},
            },
        )
    except Exception as error:  # as above
        log(
            f"warning: {run.place}: MLflow at {uri} gives nothing of run {run_id} ({_line(error)}); its evaluations are missing here"
        )
        return run


def _client(uri: str) -> Any:
    """A client; MLflow would make a SQLite file that is not there."""
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).is_file():
        raise UserError(
            f"MLflow at {uri}: no such file; it lies beside the run folders unless tracking.uri says otherwise"
        )
    return tracking.connect(uri)


def _search(client: Any, experiment: str, filter_string: str) -> list[Any] | None:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [found.experiment_id], filter_string=filter_string, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _run(client: Any, found: Any, uri: str, names: Mapping[str, str]) -> Run:
    tags = found.data.tags
    return Run(
        name=found.info.run_name,
        place=found.info.run_id,
        status=_STATUS[found.info.status],
        settings=only_decisive(found.data.params),
        facts=facts(
            dataset=found.data.params.get("data", tags.get("dataset", "")),
            version=tags.get("version", "?"),
            commit=tags.get("mlflow.source.git.commit"),
            is_dirty=tags.get("git.dirty") == "True",
            workers=tags.get("world_size", "?"),
        ),
        dataset_digest=tags.get("dataset_digest", ""),
        curves=_curves(client, found, [f"train/{name}" for name in LOSSES] + list(_FOLLOWED)),
        evaluations=_evaluations(found),
        evaluated_on=_evaluated_on(client, found),
        weights_sha256=_weights(client, found),
        parent=names.get(tags.get(_PARENT, "")),
        tracked={"uri": uri, "run_id": found.info.run_id},
    )


def _curves(client: Any, found: Any, names: Any) -> dict[str, Curve]:
    """By name without `train/` or `eval/`; of a step logged twice the later value."""
    curves = {}
    for name in names:
        if name in found.data.metrics:
            history = client.get_metric_history(found.info.run_id, name)
            by_step = {metric.step: metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)}
            steps = sorted(by_step)
            curves[name.split("/", 1)[1]] = Curve(
                steps=np.array(steps, np.float64), values=np.array([by_step[step] for step in steps], np.float64)
            )
    return curves


def _evaluations(found: Any) -> dict[str, float]:
    metrics = found.data.metrics
    return {name.removeprefix(_EVALUATION): metrics[name] for name in metrics if name.startswith(_EVALUATION)}


def _models(client: Any, found: Any) -> list[Any]:
    """The logged models of a run, by the step of their weights."""
    outputs = found.outputs.model_outputs if found.outputs else []
    return [client.get_logged_model(output.model_id) for output in sorted(outputs, key=lambda output: output.step)]


def _evaluated_on(client: Any, found: Any) -> frozenset[str]:
    metrics = [metric for model in _models(client, found) for metric in model.metrics or []]
    return frozenset(
        metric.dataset_digest[:DIGEST_LENGTH]
        for metric in metrics
        if metric.key.startswith(_EVALUATION) and metric.dataset_digest
    )


def _weights(client: Any, found: Any) -> str | None:
    models = _models(client, found)
    return models[-1].tags.get("sha256") if models else None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
