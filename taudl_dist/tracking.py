"""MLflow, known to this module alone. A tracking server that is out of reach costs a warning, never a training run.

MLflow follows metrics.jsonl: the file on disk is the buffer, each line carries its time, and only steps beyond the last one MLflow
holds are sent. So an outage loses nothing, a restart continues the same MLflow run, and no step stands in it twice.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, flatten, to_dict
from taudl_dist.dataset import location
from taudl_dist.errors import UsageError
from taudl_dist.progress import log

_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_PASSWORD = re.compile(r"^https?://[^/]*@|^(?!https?:|sqlite)[^:]*://[^@]*:[^@]*@|[?&](password|token)=", re.IGNORECASE)
"""Anything before the host of a server, which may be a token; of a database what stands between `:` and `@`, `/` included."""
_MAX_METRICS = 1000
"""MLflow takes no more in one batch."""
_PAUSES_S = (10, 30, 60, 300)
"""Seconds without an attempt after the first, second, ... failure in a row."""


def tracking_uri(config: Config) -> str | None:
    """Where MLflow keeps this run; None tracks nothing.

    Raises:
        UsageError: a URI MLflow cannot keep runs at, or one with a password in it.
    """
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri == "none":
        return None
    if not uri:
        return f"sqlite:///{Path(config.out).resolve().parent / 'mlflow.db'}"
    source = "tracking.uri" if config.tracking.uri else "MLFLOW_TRACKING_URI"
    if _PASSWORD.search(uri):
        raise UsageError(
            f"{source} holds a password, which would be written into the run; give a server's in MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, and let a server (cluster/mlflow.sh) stand before a database"
        )
    if uri.split(":")[0].split("+")[0] not in _SCHEMES or ":" not in uri:
        raise UsageError(
            f"{source} {uri!r}: expected `none`, sqlite:///FILE, or the address of an MLflow server (http://HOST:PORT);"
            " MLflow no longer keeps runs in plain folders"
        )
    return absolute(uri)


def absolute(uri: str) -> str:
    """The same place from every folder: the file of SQLite may be given relative to the current one."""
    database = uri.removeprefix("sqlite:///")
    return f"sqlite:///{Path(database).absolute()}" if database != uri else uri


def start(config: Config, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Creates the MLflow run, or opens again the one that run.json names.

    Args:
        info: run.json.

    Returns:
        Where the run is: uri, experiment, run_id, model_id, for run.json; None if tracking is off or out of reach.
    """
    uri = tracking_uri(config)
    if uri is None:
        return None
    old = info["mlflow"]
    with tolerated(f"MLflow at {uri} is out of reach; the run is kept in its folder so far"):
        client = connect(uri)
        if old and old["uri"] == uri:
            place = dict(old)
            client.update_run(place["run_id"], status="RUNNING")
        else:
            place = _create(client, config, info, uri=uri)
        with tolerated(f"MLflow at {uri} did not take the settings of run {place['run_id']}"):
            _describe(client, place, config, info)
        return place
    return None


def _create(client: Any, config: Config, info: Mapping[str, Any], *, uri: str) -> dict[str, Any]:
    name = config.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, artifacts(uri, name))
    digest, code = info["dataset"]["digest"], info["code"]
    tags = {
        "mlflow.source.name": "taudl train",
        "mlflow.source.git.commit": code["git_sha"] or "",
        "mlflow.user": _user(),
        "git.dirty": code["git_dirty"],
        "version": code["version"],
        "dataset": location.name(config.data),
        "dataset_digest": digest,
        "config_digest": info["config_digest"],
        "recipe": config.recipe,
        "world_size": info["workers"],
        "run_folder": str(Path(config.out).resolve()),
        "ray.job_id": os.environ.get("RAY_JOB_ID", ""),
    }
    run = client.create_run(
        experiment_id,
        run_name=Path(config.out).resolve().name,
        tags={key: str(value) for key, value in tags.items() if value != ""},
    )
    place = {"uri": uri, "experiment": name, "experiment_id": experiment_id, "run_id": run.info.run_id}
    return {**place, "model_id": None}


def _describe(client: Any, place: Mapping[str, Any], config: Config, info: Mapping[str, Any]) -> None:
    """Settings, dataset and config.yaml of a run that has none; the settings last, which say that all is there."""
    from mlflow.entities import Param

    run_id = place["run_id"]
    if client.get_run(run_id).data.params:
        return
    client.log_inputs(run_id, [_dataset_input(config.data, info["dataset"]["digest"], context="training")])
    client.log_artifact(run_id, str(Path(config.out) / "config.yaml"))
    client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in flatten(to_dict(config)).items()])


def address(place: Mapping[str, Any]) -> str:
    """Where a person finds a run: its page on a server, else file and run id.

    Args:
        place: what `start` returned.
    """
    if str(place["uri"]).startswith(("http:", "https:")):
        return f"{place['uri'].rstrip('/')}/#/experiments/{place['experiment_id']}/runs/{place['run_id']}"
    return f"{place['uri']} run {place['run_id']}"


class Follower:
    """Sends the new lines of metrics.jsonl to an MLflow run.

    Args:
        place: what `start` returned.
        metrics: metrics.jsonl, to which lines are only appended from now on.
        begin: creates the run where MLflow was out of reach when `start` was called; None as long as it still is.
    """

    def __init__(
        self,
        place: Mapping[str, Any] | None,
        metrics: Path,
        *,
        begin: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self._place = place
        self._begin = begin
        self._metrics = metrics
        self._offset = 0
        self._after: int | None = None
        self._failures = 0
        self._not_before = 0.0

    def send(self, *, now: bool = False) -> bool:
        """Sends what is new; after a failure it waits longer and longer before it tries again, unless `now`.

        Returns:
            Whether MLflow has everything.
        """
        if time.monotonic() < self._not_before and not now:
            return False
        self._place = self._place or self._begin()
        if self._place:
            with tolerated(f"MLflow at {self._place['uri']} is out of reach; metrics wait in {self._metrics.name}"):
                self._send(self._place)
                self._failures = 0
                return True
        self._not_before = time.monotonic() + _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
        self._failures += 1
        return False

    def _send(self, place: Mapping[str, Any]) -> None:
        client, run_id = connect(place["uri"]), place["run_id"]
        if self._after is None:
            self._after = max((metric.step for metric in client.get_metric_history(run_id, "train/loss")), default=-1)
        with self._metrics.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        rows = [row for row in map(json.loads, text.splitlines()) if row["step"] > self._after]
        per_batch = max(1, _MAX_METRICS // max((len(row) for row in rows), default=1))
        for first in range(0, len(rows), per_batch):
            part = rows[first : first + per_batch]
            client.log_batch(run_id, metrics=[metric for row in part for metric in _metrics_of(row)])
            self._after = part[-1]["step"]
        self._offset += len(text)


def finish(
    place: Mapping[str, Any], metrics: Path, *, status: str, model: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Sends what is left and closes the run with FINISHED, FAILED or KILLED; logs the final model.

    Args:
        model: weights (path), sha256, dataset_digest, step of the final weights.

    Returns:
        `place` with the id of the final model, or None if MLflow did not get everything.
    """
    is_sent = Follower(place, metrics).send(now=True) if metrics.exists() else True
    with tolerated(f"MLflow at {place['uri']} is out of reach; run {place['run_id']} stays as it is there"):
        client = connect(place["uri"])
        model_id = place["model_id"] or (_final_model(client, place, model) if model else None)
        client.set_terminated(place["run_id"], status=status)
        return {**place, "model_id": model_id} if is_sent else None
    return None


def log_evaluation(
    run_folder: Path | str,
    metrics: Mapping[str, Any],
    *,
    dataset_digest: str,
    step: int | None = None,
    artifacts: Sequence[Path | str] = (),
) -> str | None:
    """Attaches `eval/<name>` metrics and files to the MLflow run of a run folder, and to the model it logged.

    Args:
        metrics: by name; what is not a number is left out.
        dataset_digest: digest of the dataset evaluated on.
        step: steps behind the weights; the run's last step by default.

    Returns:
        The MLflow run id; None where the run is not tracked or its server is out of reach (then a warning is on stderr).
    """
    from taudl_dist.tracked_models import by_step

    info_path = Path(run_folder) / "run.json"
    place = None
    with tolerated(f"{info_path} is not what a run wrote; the evaluation is not in MLflow"):
        place = json.loads(info_path.read_text())["mlflow"] if info_path.is_file() else None
    if place is None:
        return None
    if step is None:
        step = json.loads((Path(run_folder) / "model.json").read_text()).get("step", 0)
    with tolerated(f"MLflow at {place['uri']} is out of reach; the evaluation is not in it"):
        client = connect(place["uri"])
        model = by_step(client, place).get(step)
        model_id = model.model_id if model else place["model_id"]
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        data = str(metrics.get("dataset", "evaluation"))
        log_numbers(
            client, place, numbers, step=step, time_s=time.time(), model_id=model_id, data=data, digest=dataset_digest
        )
        for artifact in artifacts:
            client.log_artifact(place["run_id"], str(artifact), "evaluation")
        return place["run_id"]
    return None


def log_numbers(
    client: Any,
    place: Mapping[str, Any],
    numbers: Mapping[str, float],
    *,
    step: int,
    time_s: float,
    model_id: str | None,
    data: str,
    digest: str,
) -> None:
    """Numbers of an evaluation as `eval/<name>`, of the run and of the model, with the dataset as an input of the run.

    Args:
        step: steps behind the model's weights.
        data: place of the dataset.
        digest: digest of the dataset.
    """
    from mlflow.entities import Metric

    client.log_inputs(place["run_id"], [_dataset_input(data, digest, context="evaluation")])
    about = {"model_id": model_id, "dataset_name": location.name(data), "dataset_digest": digest[:36]}
    stamp = int(time_s * 1000)
    client.log_batch(
        place["run_id"],
        metrics=[
            Metric(f"eval/{name}", float(value), stamp, step, run_id=place["run_id"], **about)
            for name, value in numbers.items()
        ],
    )


def _final_model(client: Any, place: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The logged model of the final weights: that of their evaluation, or one that points to them in the run folder."""
    import mlflow
    from mlflow.entities import LoggedModelOutput

    from taudl_dist.tracked_models import NAME, by_step

    evaluated = by_step(client, place).get(model["step"])
    if evaluated:
        return evaluated.model_id
    mlflow.set_tracking_uri(place["uri"])
    logged = mlflow.create_external_model(
        name=NAME,
        source_run_id=place["run_id"],
        experiment_id=place["experiment_id"],
        model_type="re-identification",
        tags={key: str(value) for key, value in model.items()},
    )
    client.log_outputs(place["run_id"], [LoggedModelOutput(logged.model_id, step=model["step"])])
    return logged.model_id


def _metrics_of(row: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    stamp = int(row["time"] * 1000)
    names = [key for key in row if key not in ("step", "time")]
    return [Metric(f"train/{name}", float(row[name]), stamp, row["step"]) for name in names]


def _dataset_input(data: str, digest: str, *, context: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=location.name(data),
        digest=digest[:36],  # MLflow's column holds no more; the whole one is a tag of the run
        source_type="local",
        source=json.dumps({"uri": location.absolute(data)}),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag(key="mlflow.data.context", value=context)])


def artifacts(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: beside a SQLite file; None: a server has its own place."""
    database = uri.removeprefix("sqlite:///")
    return (Path(database).resolve().parent / "mlartifacts" / experiment).as_uri() if database != uri else None


def connect(uri: str) -> Any:
    """A client of the MLflow at this address, with short time-outs and without MLflow's own messages."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    import logging

    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):  # a container may run under a number that has no name
        return getpass.getuser()
    return ""


@contextlib.contextmanager
def tolerated(warning: str) -> Iterator[None]:
    """Whatever goes wrong between us and the tracking server becomes one line."""
    try:
        yield
    except Exception as error:  # network, database, HTTP and MLflow errors have no common ancestor
        log(f"warning: {warning} ({one_line(error)})")


def one_line(error: Exception) -> str:
    """Kind and first line of an error of MLflow's."""
    reason = str(error).strip().splitlines()
    return f"{type(error).__name__}: {reason[0][:200] if reason else ''}"
