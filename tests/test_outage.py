"""A real MLflow server that is away: from the start to the end, and killed and brought back in the middle of training."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from taudl_dist import tracking
from taudl_dist.cli import main
from taudl_dist.commands.train import parse_config
from taudl_dist.training import train
from tests.training.conftest import FLAGS, rows, start, tiny_dataset, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Server:
    """`mlflow server` on a port of its own; what it stored outlives it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._folder = f"http://127.0.0.1:{self.port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = [
            "--backend-store-uri",
            f"sqlite:///{self._folder}/server.db",
            "--artifacts-destination",
            self._folder / "artifacts",
        ]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *map(str, store), *place],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("no answer from mlflow server")

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def _assert_all_there(run: Path, status: str = "FINISHED") -> None:
    """Every number of metrics.jsonl once, and settings, dataset, file and model."""
    place = json.loads((run / "run.json").read_text())["mlflow"]
    client = tracking.connect(place["uri"])
    for name in ("loss", "pctd", "ccta", "lr", "images_per_s", "data_wait_s"):
        history = client.get_metric_history(place["run_id"], f"train/{name}")
        found = sorted((metric.step, metric.value) for metric in history)
        assert found == [(row["step"], float(row[name])) for row in rows(run)], name
    found = client.get_run(place["run_id"])
    assert found.info.status == status
    assert found.data.params["optim.lr"] == "0.00035"
    assert [entry.dataset.name for entry in found.inputs.dataset_inputs] == ["data"]
    assert [file.path for file in client.list_artifacts(place["run_id"])] == ["config.yaml"]
    assert client.get_logged_model(place["model_id"]).source_run_id == place["run_id"]


def test_nothing_is_lost(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_dataset(tmp_path / "data")
    words = ["--data", str(data), *FLAGS, "--tracking.uri", server.uri]

    away = tmp_path / "away"
    train(parse_config([*words, "--out", str(away)]))  # there is no server, from the start to the end
    assert f"it is in {away}, and goes there with: taudl sync {away}" in capsys.readouterr().err
    assert json.loads((away / "run.json").read_text())["mlflow"] is None
    assert main(["sync", str(away)]) == 1
    server.start()
    for _ in range(2):  # the second time changes nothing
        assert main(["sync", str(away)]) == 0
        _assert_all_there(away)

    killed = tmp_path / "killed"
    process = start(*words, "--out", killed, "--steps", "600", "--checkpoint.every", "100")
    wait_for_step(killed, 50, process)
    server.kill()
    wait_for_step(killed, 300, process)
    server.start()
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "metrics wait in metrics.jsonl" in err
    assert len(rows(killed)) == 600
    _assert_all_there(killed)


def test_what_cannot_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_dataset(tmp_path / "data")
    run = train(parse_config(["--data", str(data), *FLAGS, "--out", str(tmp_path / "run")]))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for words, message in (
        ([str(tmp_path)], "no run.json in it"),
        ([str(run)], "was trained with --tracking.uri none; name an MLflow to send it to with --uri"),
        ([str(run), "--uri", "./mlruns"], "sqlite"),
    ):
        assert main(["sync", *words]) != 0
        assert message in capsys.readouterr().err
    assert main(["sync", str(run), "--uri", uri]) == 0
    assert json.loads((run / "run.json").read_text())["mlflow"]["uri"] == uri
    _assert_all_there(run)
