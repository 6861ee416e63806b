"""What is said where a run cannot be written, and which devices its workers get."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.config import resolve
from taudl_dist.errors import UsageError, UserError
from taudl_dist.training import launch, ray_train


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "step, kept", [(0, "no checkpoint is complete yet"), (10, "the checkpoint of step 10 is complete")]
)
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, step: int, kept: str) -> None:
    def fail(config: Any) -> None:
        raise OSError(
            number, "Error while serializing", f"{config.out}/checkpoints/step-0000000015-aa/heads-00000.safetensors"
        )

    if step:
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:010d}-aa"
        folder.mkdir(parents=True)
        (folder / "COMPLETE.json").touch()
    monkeypatch.setattr(launch, "_train_here", fail)
    with pytest.raises(UserError) as caught:
        launch.launch(resolve({"data": "d", "out": str(tmp_path / "run"), "model": {"name": "small"}}))
    said = str(caught.value)
    assert kept in said
    assert "step-0000000015-aa/heads-00000.safetensors" in said
    assert said.endswith(f"taudl train --out {tmp_path / 'run'} --resume")


def test_another_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(config: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", config.out)

    monkeypatch.setattr(launch, "_train_here", fail)
    with pytest.raises(PermissionError):
        launch.launch(resolve({"data": "d", "out": str(tmp_path / "run"), "model": {"name": "small"}}))


DEVICES = [
    ({"CPU": 4.0}, 2, "auto", False),
    ({"CPU": 4.0, "GPU": 2.0}, 2, "auto", True),
    ({"CPU": 4.0, "GPU": 1.0}, 2, "auto", "has 1 GPUs; use --workers 1, --parallel.device cpu to train on CPUs"),
    ({"CPU": 1.0}, 2, "auto", "has 1 CPUs, and each worker takes one"),
    ({"CPU": 4.0, "GPU": 2.0}, 2, "cpu", False),
    ({"node": 1.0}, 2, "cpu", False),  # an autoscaler adds them
    ({"CPU": 4.0}, 2, "gpu", True),
]


@pytest.mark.parametrize("case", DEVICES, ids=str)
def test_what_workers_take(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: Any) -> None:
    resources, workers, device, expected = case
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(
        ray_train.time, "monotonic", iter(range(0, 1000, 10)).__next__
    )  # no waiting for the first machine
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            ray_train._check_resources(workers, device)
        return
    assert ray_train._check_resources(workers, device) == expected
    missing = resources.get("GPU" if expected else "CPU", 0) < workers
    assert ("waiting for 2 " in capsys.readouterr().err) == missing


def test_devices_are_rays_to_give(tmp_path: Path) -> None:
    config = resolve({"data": "d", "out": str(tmp_path / "run"), "parallel": {"device": "gpu"}})
    with pytest.raises(UsageError, match=r"--parallel\.device gpu is for workers of Ray"):
        launch.launch(config)
