"""What is said where a run cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.config import resolve
from taudl_dist.errors import UserError
from taudl_dist.training import launch


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
