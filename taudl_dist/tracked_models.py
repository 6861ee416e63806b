"""Evaluated checkpoints as models in MLflow, each with its numbers and weights; and the model registry.

MLflow follows evaluations.jsonl as it follows metrics.jsonl: a row whose model is complete there is left alone, every other is sent
(again), so an outage or a kill loses no number and doubles none. Weights that were pruned before they could be sent are missing
there, and the model says so.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taudl_dist import tracking
from taudl_dist.errors import UserError

NAME = "taudl-reid"
"""Of every logged model; run, step and digest tell them apart."""
_EXTERNAL = "mlflow.model.isExternal"
"""MLflow's tag of a model whose files it does not hold."""
_VERSIONS = "mlflow.modelVersions"
"""MLflow's tag of a model that names its versions in the registry, as JSON."""
_REQUIREMENTS = ("torch", "torchvision", "numpy", "safetensors")


def send(run: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Brings evaluations of a run to MLflow that are not there; costs a warning if it is out of reach.

    Args:
        run: the run folder.
        rows: of evaluations.jsonl.

    Returns:
        Whether MLflow has them all.
    """
    place = json.loads((run / "run.json").read_text())["mlflow"]
    rows = [row for row in rows if "metrics" in row]
    if not rows:
        return True
    if place:
        with tracking.tolerated(f"MLflow at {place['uri']} is out of reach; evaluations wait in evaluations.jsonl"):
            _send(tracking.connect(place["uri"]), place, run, rows)
            return True
    return False


def _send(client: Any, place: Mapping[str, Any], run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    known = by_step(client, place)
    for row in rows:
        model = known.get(row["step"])
        if model and model.status == "READY":
            continue
        if model:  # a kill or an outage left it half sent
            client.delete_logged_model(model.model_id)
        _send_row(client, place, run, row)


def _send_row(client: Any, place: Mapping[str, Any], run: Path, row: Mapping[str, Any]) -> None:
    from mlflow.entities import LoggedModelOutput

    facts = {key: row[key] for key in ("step", "sha256", "dataset_digest", "checkpoint")}
    model = client.create_logged_model(
        experiment_id=place["experiment_id"],
        name=NAME,
        source_run_id=place["run_id"],
        model_type="re-identification",
        tags={key: str(value) for key, value in facts.items()},
    )
    client.log_outputs(place["run_id"], [LoggedModelOutput(model.model_id, step=row["step"])])
    folder = run / "checkpoints" / row["checkpoint"]
    if (folder / "model.safetensors").is_file():
        upload(client, place, model.model_id, folder)
    else:
        client.set_logged_model_tags(model.model_id, {_EXTERNAL: "true", "weights": "pruned before they could be sent"})
    tracking.log_numbers(
        client,
        place,
        row["metrics"],
        step=row["step"],
        time_s=row["time"],
        model_id=model.model_id,
        data=row["data"],
        digest=row["dataset_digest"],
    )
    client.finalize_logged_model(model.model_id, "READY")


def by_step(client: Any, place: Mapping[str, Any]) -> dict[int, Any]:
    """The logged models of a run, by the steps behind their weights; of several the newest."""
    models: dict[int, Any] = {}
    token = None
    while True:
        page = client.search_logged_models(
            [place["experiment_id"]],
            filter_string=f"source_run_id = '{place['run_id']}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            page_token=token,
        )
        models |= {int(model.tags["step"]): model for model in page if model.tags.get("step", "").isdecimal()}
        token = page.token
        if not token:
            return models


def upload(client: Any, place: Mapping[str, Any], model_id: str, folder: Path) -> None:
    """Gives a logged model its files: weights, description, this package's code, signature, input example."""
    import shutil

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        for name in ("model.safetensors", "model.json"):
            shutil.copy(folder / name, data / name)
        packed = Path(scratch) / "model"
        _save_pyfunc(packed, data, place=place, model_id=model_id)
        client.log_model_artifacts(model_id, str(packed))
    if client.get_logged_model(model_id).tags.get(_EXTERNAL) == "true":
        client.delete_logged_model_tag(model_id, _EXTERNAL)


def _save_pyfunc(path: Path, data: Path, *, place: Mapping[str, Any], model_id: str) -> None:
    import importlib.metadata

    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    import taudl_dist

    about = json.loads((data / "model.json").read_text())
    image = (3, about["height"], about["width"])
    number = np.dtype(np.float32)
    mlflow.pyfunc.save_model(
        str(path),
        loader_module="taudl_dist.model.pyfunc",
        data_path=str(data),
        code_paths=[str(Path(taudl_dist.__file__).parent)],
        mlflow_model=Model(artifact_path=None, run_id=place["run_id"], model_id=model_id),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(number, (-1, *image))]),
            outputs=Schema([TensorSpec(number, (-1, about["feature_dim"]))]),
        ),
        input_example=np.zeros((1, *image), number),  # the mean colour
        pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in _REQUIREMENTS],
        metadata=about,
    )


def register(folder: Path, run: Path, *, name: str, alias: str) -> dict[str, Any]:
    """Makes a model of a run a version of a registered model, and gives that version the alias; twice the same is one version.

    Args:
        folder: holds model.safetensors and model.json.
        run: the run folder it belongs to.
        name: of the registered model, which is made if there is none.
        alias: such as champion; it leaves the version that had it.

    Returns:
        name, version, alias, model_id, uri (for MLflow's load_model), mlflow (its address).

    Raises:
        UserError: a run that is not in MLflow, or an MLflow that is out of reach or refuses.
    """
    path = run / "run.json"
    place = json.loads(path.read_text())["mlflow"] if path.is_file() else None
    if place is None:
        raise UserError(
            f"--register {name}: {run} is not in MLflow, and only a tracked run can be registered; `taudl sync {run}` sends a run"
            " that was trained while its MLflow was out of reach"
        )
    try:
        return _register(tracking.connect(place["uri"]), place, folder, name=name, alias=alias)
    except UserError:
        raise
    except Exception as error:  # network, database, HTTP and MLflow errors have no common ancestor
        raise UserError(f"--register {name}: MLflow at {place['uri']}: {tracking.one_line(error)}") from None


def _register(client: Any, place: Mapping[str, Any], folder: Path, *, name: str, alias: str) -> dict[str, Any]:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(place["uri"])  # where MLflow looks up models:/m-...
    step = json.loads((folder / "model.json").read_text())["step"]
    model = by_step(client, place).get(step)
    if model is None:
        raise UserError(f"run {place['run_id']} has no model of step {step}; `taudl sync` the run folder first")
    if not client.list_logged_model_artifacts(model.model_id):
        upload(client, place, model.model_id, folder)
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(
            name, description="Person re-identification features, trained without identity labels"
        )
    source = f"models:/{model.model_id}"
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((found for found in versions if found.source == source), None)
    if version is None:
        tags = {"step": str(step), "dataset_digest": model.tags["dataset_digest"]}
        version = client.create_model_version(
            name, source=source, run_id=place["run_id"], model_id=model.model_id, tags=tags
        )
        known = json.loads(model.tags.get(_VERSIONS, "[]"))
        linked = [*known, {"name": name, "version": version.version}]
        client.set_logged_model_tags(model.model_id, {_VERSIONS: json.dumps(linked)})
    client.set_registered_model_alias(name, alias, version.version)
    uri = f"models:/{name}@{alias}"
    return {
        "name": name,
        "version": int(version.version),
        "alias": alias,
        "model_id": model.model_id,
        "uri": uri,
        "mlflow": place["uri"],
    }
