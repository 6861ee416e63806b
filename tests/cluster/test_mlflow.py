"""`cluster/mlflow.sh` with a stand-in for `mlflow`: what is on its command line, and what never is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "mlflow.sh"
DATABASE = "postgresql://me:s3cret@host/mlflow"
STAND_IN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"; printf "database [%s]\\n" "$MLFLOW_BACKEND_STORE_URI"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Away from this project's own environment, whose `mlflow` would be the one that starts."""
    for name in ("cluster", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(SCRIPT, tmp_path / "cluster")
    (tmp_path / "bin" / "mlflow").write_text(STAND_IN)
    (tmp_path / "bin" / "mlflow").chmod(0o755)
    return tmp_path


def _run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    script = folder / "cluster" / "mlflow.sh"
    return subprocess.run([script], env={**inherited, "PATH": path, **env}, capture_output=True, text=True, check=False)


def test_from_a_file_of_ones_own(folder: Path) -> None:
    secret = folder / "env"
    secret.write_text(f"MLFLOW_BACKEND_STORE_URI={DATABASE}\n")
    secret.chmod(0o640)
    result = _run(folder, ENV_FILE=str(secret), ARTIFACTS="/storage/a b")
    assert result.returncode == 1
    assert f"chmod 600 {secret}" in result.stderr
    secret.chmod(0o600)
    result = _run(folder, ENV_FILE=str(secret), ARTIFACTS="/storage/a b", NAMES="mlflow,mlflow.ns")
    *words, database = result.stdout.splitlines()
    assert database == f"database [{DATABASE}]"
    assert "s3cret" not in " ".join(words) + result.stderr
    flags = dict(zip(words[1::2], words[2::2]))
    assert flags["--host"] == "127.0.0.1"
    assert flags["--artifacts-destination"] == "/storage/a b"
    names = ["mlflow", "mlflow.ns", "localhost", "127.0.0.1"]
    assert flags["--allowed-hosts"] == ",".join(f"{name},{name}:*" for name in names)


def test_from_the_environment_as_in_a_pod(folder: Path) -> None:
    result = _run(folder, MLFLOW_BACKEND_STORE_URI=DATABASE + "\n", ARTIFACTS="s3://bucket/mlflow", LISTEN="0.0.0.0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"database [{DATABASE}]\n")
    assert "--host\n0.0.0.0\n" in result.stdout


WRONG = [
    ({}, 2, "usage: "),
    ({"ARTIFACTS": "/a"}, 2, "usage: "),
    ({"MLFLOW_BACKEND_STORE_URI": DATABASE}, 2, "usage: "),
    ({"MLFLOW_BACKEND_STORE_URI": "/runs", "ARTIFACTS": "/a"}, 2, "names no database"),
    ({"MLFLOW_BACKEND_STORE_URI": "sqlite:///a.db", "ARTIFACTS": "/a"}, 0, "SQLite serves one machine"),
]


@pytest.mark.parametrize(("env", "code", "message"), WRONG, ids=str)
def test_what_is_missing(folder: Path, env: dict[str, str], code: int, message: str) -> None:
    result = _run(folder, **env)
    assert result.returncode == code
    assert message in result.stderr
    assert "s3cret" not in result.stderr
