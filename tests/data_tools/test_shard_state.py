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
    units = [{"name": f"cam-train-{number:05d}"} for number in range(10)]
    (tmp_path / "plan.json").write_text(json.dumps({"digest": "", "units": units}))
    (tmp_path / "driver.json").write_text('{"id": "1", "host": "here", "pid": 5, "since": "now"}')
    (tmp_path / "shards" / "of-another-plan-00000.ok.json").write_text("{}")
    for number in range(4):
        ok = tmp_path / "shards" / f"cam-train-{number:05d}.ok.json"
        ok.write_text("{}")
        os.utime(ok, (time.time() - 60 * (4 - number),) * 2)
    assert main(["status", str(tmp_path), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["state"], state["done"], state["units"]) == ("unfinished", 4, 10)
    assert state["left_s"] == pytest.approx(360, rel=0.01)
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "4 of 10 units done" in said and "here, pid 5, since now" in said
    (tmp_path / "plan.json").write_text("[" * 100_000)
    assert main(["status", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().err
