"""Ray Train for real, on a private cluster: lost workers, Ctrl-C, bad data. Each test takes about half a minute on idle cores."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import FLAGS, assert_equal, rows, start, state, tiny_dataset, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = ["--steps", "300", "--checkpoint.every", "20", "--batch.groups-per-camera", "2"]


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [child for child in below if "RayTrainWorker" in " ".join(child.cmdline())]


def test_stopped_by_every_signal_and_resumed_the_bits_are_the_same(
    dataset: Path, tmp_path: Path, train_group: Any
) -> None:
    """SIGKILL of a worker, Ctrl-C of the driver; SIGTERM of a worker, SIGTERM of the driver; to the end. Against a torchrun group."""
    words = ["--data", dataset, *FLAGS, *LONG]
    whole = train_group(2, [*words, "--out", tmp_path / "whole"])
    assert [result.returncode for result in whole] == [0, 0], whole[0].stderr

    run = tmp_path / "run"
    process = start(*words, "--out", run, "--workers", "2")
    wait_for_step(run, 50, process)
    _workers(process)[-1].send_signal(signal.SIGKILL)
    _wait_for_attempt(run, 2)
    os.kill(process.pid, signal.SIGINT)
    err = _stopped(process, 130)
    assert "(killed, or out of memory); going on from step 40 with 2 workers; 2 more losses" in err

    process = start("--out", run, "--resume")
    _wait_for_attempt(run, 3)
    second = subprocess.run(process.args, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert f"another `taudl train` is writing into it (process {process.pid} on " in second.stderr
    wait_for_step(run, 120, process)
    _workers(process)[-1].send_signal(signal.SIGTERM)
    _wait_for_attempt(run, 4)
    os.kill(process.pid, signal.SIGTERM)
    assert "lost" not in _stopped(process, 143)  # the worker saved first, which is no loss

    process = start("--out", run, "--resume")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert out.splitlines()[1].split() == ["steps", "300"]
    assert [row["step"] for row in rows(run)] == list(range(300))
    assert_equal(state(run), state(tmp_path / "whole"))
    assert not (run / ".ray").exists()


def _wait_for_attempt(run: Path, number: int) -> None:
    deadline = time.monotonic() + 400
    while len(json.loads((run / "run.json").read_text())["attempts"]) < number and time.monotonic() < deadline:
        time.sleep(0.05)


def _stopped(process: subprocess.Popen[str], code: int) -> str:
    _, err = process.communicate(timeout=400)
    assert process.returncode == code, err
    assert "--resume" in err
    assert "Traceback" not in err
    return err


def test_bad_data_reaches_the_user_as_one_line_and_is_not_tried_again(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data", spoil="1-2")
    process = start("--data", data, *FLAGS, *LONG, "--out", tmp_path / "run", "--workers", "2")
    _, err = process.communicate(timeout=400)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("taudl train: error:")
    assert ".tar: cam2-" in err.strip().splitlines()[-1]
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["attempts"]) == 1
