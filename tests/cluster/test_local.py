"""A real head node of `cluster/local.sh`: jobs with its token, none without one, the token in nothing that is written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.training.conftest import FLAGS, rows, tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [place.getsockname()[1] for place in sockets]
    for place in sockets:
        place.close()
    return ports


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a user's shell holds beside a running local cluster."""
    home, state = tmp_path_factory.mktemp("home"), Path(f"/tmp/taudl-test-{os.getpid()}")
    dashboard, port, agent, client = map(str, _free_ports(4))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    env |= {"HOME": str(home), "STATE_DIR": str(state), "DASHBOARD_PORT": dashboard, "RAY_PORT": port}
    env |= {
        "DRAIN_S": "1",
        "AGENT_PORT": agent,
        "CLIENT_PORT": client,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    try:
        started = _run(ROOT / "cluster" / "local.sh", "start", "2", env=env)
        assert started.returncode == 0, started.stderr
        assert f"export RAY_API_SERVER_ADDRESS={env['RAY_API_SERVER_ADDRESS']}" in started.stdout
        yield env
    finally:
        _run(ROOT / "cluster" / "local.sh", "stop", env=env)
        shutil.rmtree(state, ignore_errors=True)


def _run(*words: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=env, text=True, capture_output=True, check=False, timeout=280)


def _submit(*words: str | Path, env: dict[str, str], **changes: str) -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, ROOT / "jobs" / "submit.py", *words, env=env | changes)


def test_refused_without_the_token(environment: dict[str, str], tmp_path: Path) -> None:
    cases = [
        ({"HOME": str(tmp_path)}, "no token"),
        ({"RAY_AUTH_TOKEN": "wrong" * 8}, "refuses this token"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
    ]
    for changes, message in cases:
        result = _submit("shard", "--help", env=environment, **changes)
        assert result.returncode == 1
        assert message in result.stderr
        assert "wrong" not in result.stderr


def test_a_job_that_was_cut_short_goes_on_and_writes_no_token(environment: dict[str, str], tmp_path: Path) -> None:
    """The failing attempt and the good one; the dashboard asks everybody else for the token; stop ends what start began."""
    data, run = tiny_dataset(tmp_path / "data"), tmp_path / "run"
    words = ["--submission-id", "first", "train", "--data", data, "--out", run, *FLAGS, "--resume", "--workers", "1"]
    tracked = ["--tracking.uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    first = _submit(*words, *tracked, "--stop-at", "5", env=environment)
    assert first.returncode == 0, first.stderr
    assert len(rows(run)) == 5
    second = _submit(*words, *tracked, "--launcher", "ray", env=environment)
    assert second.returncode == 0, second.stderr
    assert "job first.2:" in second.stderr
    assert ", from step 5" in second.stdout
    assert [row["step"] for row in rows(run)] == list(range(12))
    [address] = {line for line in second.stderr.splitlines() if line.startswith("mlflow ")}
    assert address in second.stdout
    failed = _submit("evaluate", "--data", "/nowhere", "--model", "/nowhere", env=environment)
    assert failed.returncode == 1
    assert "failed: " in failed.stderr

    token = (Path(environment["HOME"]) / ".ray" / "auth_token").read_bytes().strip()
    said = [result.stdout + result.stderr for result in (first, second, failed)]
    assert not any(token.decode() in text for text in said)
    written = [*tmp_path.rglob("*"), *(Path(environment["STATE_DIR"]) / "session_latest" / "logs").rglob("*")]
    files = [path for path in written if path.is_file()]
    assert any(path.name.startswith("job-driver-first") for path in files)
    assert [path for path in files if token in path.read_bytes()] == []


def test_stop_ends_what_start_began(environment: dict[str, str]) -> None:
    state = environment["STATE_DIR"]
    mine = [process for process in psutil.process_iter(["cmdline"]) if state in " ".join(process.info["cmdline"] or [])]
    assert len(mine) > 3
    again = _run(ROOT / "cluster" / "local.sh", "start", env=environment)
    assert again.returncode == 1
    assert "already running" in again.stderr
    stopped = _run(ROOT / "cluster" / "local.sh", "stop", env=environment)
    assert stopped.returncode == 0, stopped.stderr
    _, alive = psutil.wait_procs(mine, timeout=20)
    assert not [process.cmdline() for process in alive]
    assert not Path(state).exists()
