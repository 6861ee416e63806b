"""A table's place in MLflow: a parent run that holds its files and numbers, over the training runs it consists of.

A training run that several tables share keeps the parent that came first; the tag `reproduce.<table>` finds the runs of each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taudl_dist import tracking
from taudl_dist.reproduce.experiment import Experiment, Outcome, tracking_place
from taudl_dist.reproduce.result import Result

_PARENT = "mlflow.parentRunId"


class Parent:
    """The MLflow run of a table, made anew or opened again; where MLflow is off or out of reach, nothing happens."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._file = experiment.out / f"{experiment.table.name}.mlflow.json"
        self._place: dict[str, Any] | None = None
        config = tracking_place(experiment)
        uri = tracking.tracking_uri(config)
        if uri is None:
            return
        with tracking.tolerated(f"MLflow at {uri} is out of reach; the table is not in it"):
            client = tracking.connect(uri)
            self._place = self._open(client, uri) or self._create(client, uri, config.tracking.experiment)
            self._file.write_text(json.dumps(self._place) + "\n")
            tags = {
                "table": experiment.table.name,
                "rows": ", ".join(row.name for row in experiment.rows),
                "seeds": ", ".join(map(str, experiment.seeds)),
                "datasets": ", ".join(dataset.location for dataset in experiment.datasets),
                "dataset_digest": ", ".join(dataset.digest for dataset in experiment.datasets),
            }
            for name, value in tags.items():
                client.set_tag(self._place["run_id"], name, value[:5000])

    def adopt(self, outcome: Outcome) -> None:
        """Puts a training run below this one."""
        place = self._place
        if place is None or outcome.mlflow is None or outcome.mlflow["uri"] != place["uri"]:
            return
        with tracking.tolerated(
            f"MLflow at {place['uri']} is out of reach; {outcome.run} does not stand below its table there"
        ):
            client, run_id = tracking.connect(place["uri"]), outcome.mlflow["run_id"]
            if _PARENT not in client.get_run(run_id).data.tags:
                client.set_tag(run_id, _PARENT, place["run_id"])
            client.set_tag(run_id, f"reproduce.{self._experiment.table.name}", outcome.job.row.name)

    def close(self, result: Result, files: Sequence[Path], *, status: str) -> None:
        """Logs means and files, and ends the run with FINISHED, FAILED or KILLED."""
        place = self._place
        if place is None:
            return
        with tracking.tolerated(f"MLflow at {place['uri']} is out of reach; the table is not in it"):
            client, run_id = tracking.connect(place["uri"]), place["run_id"]
            for name, value in means(result).items():
                client.log_metric(run_id, name, value)
            for file in files:
                client.log_artifact(run_id, str(file))
            client.set_terminated(run_id, status=status)

    def _open(self, client: Any, uri: str) -> dict[str, Any] | None:
        """The run that an earlier call made, if it is still there."""
        try:
            place = json.loads(self._file.read_text())
            if place["uri"] != uri:
                return None
            client.update_run(place["run_id"], status="RUNNING")
        except Exception:  # no file, another's file, or a run that was deleted: a new one is made
            return None
        return place

    def _create(self, client: Any, uri: str, experiment: str) -> dict[str, Any]:
        found = client.get_experiment_by_name(experiment)
        experiment_id = (
            found.experiment_id if found else client.create_experiment(experiment, tracking.artifacts(uri, experiment))
        )
        names = " ".join(self._experiment.groups)
        run = client.create_run(
            experiment_id,
            run_name=f"{self._experiment.table.name} on {names}"[:250],
            tags={"mlflow.source.name": "taudl reproduce"},
        )
        return {"uri": uri, "experiment": experiment, "run_id": run.info.run_id}


def means(result: Result) -> dict[str, float]:
    """Means of the measured rows as fractions, by <dataset>/<row>/<rate>; a single dataset is not named."""
    found = {}
    for block in result.blocks:
        prefix = f"{block.name}/" if len(result.blocks) > 1 else ""
        for line in block.lines:
            for rate, number in line.numbers.items():
                if number.mean is not None:
                    found[f"{prefix}{line.name}/{rate}"] = number.mean / 100
    return found
