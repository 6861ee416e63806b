"""MLflow: a real SQLite store, restarts, and a server that is not there."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from taudl_dist import tracking
from taudl_dist.config import Config, resolve
from taudl_dist.errors import UsageError
from taudl_dist.training.run_folder import open_run

DEAD = "http://127.0.0.1:9"  # nothing listens on the discard port


def _run(folder: Path, uri: str = "") -> tuple[Config, Any]:
    config = resolve({"data": str(folder / "data"), "out": str(folder / "runs" / "one"), "tracking": {"uri": uri}})
    return config, open_run(config, dataset_digest="d" * 64, workers=(1, 2))


def _line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "loss": loss, "images_per_s": loss * 10, "time": 1.7e9 + step}) + "\n"


def _history(place: dict[str, Any]) -> list[tuple[int, float]]:
    client = tracking.connect(place["uri"])
    return [(metric.step, metric.value) for metric in client.get_metric_history(place["run_id"], "train/loss")]


@pytest.mark.slow
def test_a_run_from_start_to_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, run = _run(tmp_path)
    place = tracking.start(config, run.info())
    assert place is not None
    run.update(mlflow=place)
    assert place["uri"] == f"sqlite:///{tmp_path}/runs/mlflow.db"
    run.metrics.write_text(
        "".join(_line(step, step / 3) for step in range(400))
    )  # more metrics than one batch may hold
    follower = tracking.Follower(place, run.metrics)
    follower.send()
    with run.metrics.open("a") as file:
        file.write(_line(400, 1.0) + '{"step": 401, "lo')  # the last line is still being written
    follower.send()
    assert _history(place) == [(step, step / 3) for step in range(400)] + [(400, 1.0)]

    # killed, and started again from step 390: the replayed steps have other values, MLflow keeps the first of each
    run.metrics.write_text(
        "".join(_line(step, step / 3) for step in range(390)) + "".join(_line(s, -1.0) for s in range(390, 410))
    )
    again = tracking.start(config, run.info())
    assert again == place
    tracking.Follower(place, run.metrics).send()
    steps = [step for step, _ in _history(place)]
    assert steps == list(range(410))
    assert dict(_history(place))[395] == 395 / 3

    (run.path / "model.json").write_text(json.dumps({"step": 410}))
    model = {"weights": "w", "sha256": "s", "dataset_digest": "d", "step": 410}
    ended = tracking.finish(place, run.metrics, status="FINISHED", model=model)
    assert ended is not None
    run.update(mlflow=ended)
    report = tmp_path / "report.txt"
    report.write_text("hello")
    metrics = {"rank1": 0.5, "mAP": 0.25, "num_valid_queries": 7, "protocol": "text is left out"}
    assert tracking.log_evaluation(run.path, metrics, dataset_digest="e" * 64, artifacts=[report]) == place["run_id"]

    client = tracking.connect(place["uri"])
    found = client.get_run(place["run_id"])
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.lr"] == "0.00035"
    assert found.data.tags["dataset_digest"] == "d" * 64
    assert found.data.tags["world_size"] == "1:2"
    assert found.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert found.data.metrics["eval/rank1"] == 0.5
    assert {file.path for file in client.list_artifacts(place["run_id"])} == {"config.yaml", "evaluation"}
    logged = client.get_logged_model(ended["model_id"])
    assert logged.tags["weights"] == "w"
    assert {metric.key: metric.value for metric in logged.metrics} == {
        "eval/rank1": 0.5,
        "eval/mAP": 0.25,
        "eval/num_valid_queries": 7.0,
    }


@pytest.mark.slow
def test_a_server_that_is_away_costs_a_line_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = _run(tmp_path)
    place = tracking.start(config, run.info())
    assert place is not None
    run.metrics.write_text(_line(0, 0.5))
    away = {**place, "uri": DEAD}
    follower = tracking.Follower(away, run.metrics)
    follower.send()
    assert "metrics wait in metrics.jsonl" in capsys.readouterr().err
    before = time.monotonic()
    for _ in range(100):
        follower.send()  # not tried again so soon
    assert time.monotonic() - before < 1
    assert capsys.readouterr().err == ""
    follower._place = place  # the server is back
    follower.send(now=True)
    assert _history(place) == [(0, 0.5)]


@pytest.mark.slow
def test_no_server_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = _run(tmp_path, DEAD)
    before = time.monotonic()
    assert tracking.start(config, run.info()) is None
    assert time.monotonic() - before < 30
    assert f"warning: MLflow at {DEAD} is out of reach" in capsys.readouterr().err
    assert tracking.log_evaluation(run.path, {"rank1": 1.0}, dataset_digest="d") is None


def test_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = str(tmp_path / "runs" / "one")
    assert tracking.tracking_uri(resolve({"out": out})) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.tracking_uri(resolve({"out": out, "tracking": {"uri": "none"}})) is None
    monkeypatch.chdir(tmp_path)  # workers of Ray, and `taudl evaluate`, run in other folders
    assert tracking.tracking_uri(resolve({"tracking": {"uri": "sqlite:///a/b.db"}})) == f"sqlite:///{tmp_path}/a/b.db"
    assert tracking.tracking_uri(resolve({"tracking": {"uri": "postgresql+psycopg2://u@h/db"}})).startswith(
        "postgresql"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking.tracking_uri(resolve({"out": out})) == "http://tracker:5000"
    for wrong in ("./mlruns", "file:///tmp/mlruns", "ftp://x", "nonsense"):
        with pytest.raises(UsageError, match="expected `none`, sqlite"):
            tracking.tracking_uri(resolve({"tracking": {"uri": wrong}}))


def test_an_untracked_run_folder_has_nothing_to_attach_to(tmp_path: Path) -> None:
    assert tracking.log_evaluation(tmp_path, {"rank1": 1.0}, dataset_digest="d") is None


def test_a_damaged_run_json_costs_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{")
    assert tracking.log_evaluation(tmp_path, {"rank1": 1.0}, dataset_digest="d") is None
    assert "run.json is not what a run wrote" in capsys.readouterr().err


PASSWORDS = [
    "postgresql://me:s3cret@host/mlflow",
    "https://me:s3cret@host",
    "mysql+pymysql://host/mlflow?user=me&password=s3cret",
]


@pytest.mark.parametrize("uri", PASSWORDS)
def test_an_address_with_a_password_is_not_written_anywhere(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, environment in ((uri, ""), ("", uri)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
        with pytest.raises(UsageError, match="holds a password") as caught:
            tracking.tracking_uri(resolve({"out": "run", "tracking": {"uri": setting}}))
        assert "s3cret" not in str(caught.value)


def test_where_a_person_finds_a_run() -> None:
    place = {"experiment_id": "3", "run_id": "abc"}
    assert tracking.address({"uri": "http://host:5000/", **place}) == "http://host:5000/#/experiments/3/runs/abc"
    assert tracking.address({"uri": "sqlite:////runs/mlflow.db", **place}) == "sqlite:////runs/mlflow.db run abc"
