"""Ray Train's validation for real, on a private cluster; about half a minute on idle cores."""

import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from taudl_dist.training.evaluations import Evaluations

from .conftest import FLAGS, assert_equal, start, state, tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WORDS = [
    *FLAGS,
    "--steps",
    "40",
    "--checkpoint.every",
    "20",
    "--checkpoint.keep",
    "1",
    "--batch.groups-per-camera",
    "2",
]


def test_validated_beside_training_and_its_death_costs_nothing(tmp_path: Path, train_group: Any) -> None:
    """The task that validates is killed once. Against a torchrun group that validates nothing."""
    data = tiny_dataset(tmp_path / "data", num_probes=5)
    words = ["--data", data, *WORDS]
    whole = train_group(2, [*words, "--out", tmp_path / "whole"])
    assert [result.returncode for result in whole] == [0, 0], whole[0].stderr

    run = tmp_path / "run"
    process = start(*words, "--out", run, "--workers", "2", "--evaluate-every", "20")
    _validating(process).parent().kill()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "steps    40" in out.splitlines()
    assert_equal(state(run), state(tmp_path / "whole"))
    record = Evaluations(run=run)
    assert [(row["step"], row.get("error")) for row in record.rows()] == [(20, None), (40, None)], err
    assert "evaluated step 40: mAP" in err
    best = record.best()
    assert best and (run / "best").resolve().name == best["checkpoint"]
    assert not (run / ".ray").exists()


def _validating(driver: subprocess.Popen[str]) -> Any:
    """The process that evaluates, once it is there."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and driver.poll() is None:
        for child in psutil.Process(driver.pid).children(recursive=True):
            try:
                if "taudl_dist.training.evaluator" in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)
    raise AssertionError(
        f"nothing was evaluated: {driver.communicate()[1] if driver.poll() is not None else 'no time'}"
    )
