"""How far `taudl shard` is, told by its folder alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.cli import main


def test_a_dataset_that_is_being_made(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "plan.json").write_text(json.dumps({"units": [{}] * 10}))
    for number in range(4):
        ok = tmp_path / "shards" / f"cam-{number:05d}.ok.json"
        ok.write_text("{}")
        os.utime(ok, (time.time() - 60 * (4 - number),) * 2)
    assert main(["status", str(tmp_path), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["state"], state["done"], state["units"]) == ("unfinished", 4, 10)
    assert state["left_s"] == pytest.approx(360, rel=0.01)
    assert main(["status", str(tmp_path)]) == 0
    assert "4 of 10 units done" in capsys.readouterr().out
    (tmp_path / "plan.json").write_text("[" * 100_000)
    assert main(["status", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().err
