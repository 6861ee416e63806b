"""The benchmark of sharding on a small picture, without the Ray cluster of its last line."""

from __future__ import annotations

import pytest

from benchmarks import shard


@pytest.mark.slow
def test_measure_and_report(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "WIDTH", 480)
    monkeypatch.setattr(shard, "HEIGHT", 440)
    monkeypatch.setattr(shard, "FPS", 10)
    seconds_of = shard.seconds_of
    monkeypatch.setattr(shard, "seconds_of", lambda call, *_: seconds_of(call, 1))
    monkeypatch.setattr(shard, "measure_workers", lambda *_: {"1 workers": 1.0})
    result = shard.measure(tmp_path, 20)
    busy, quiet = result["busy"], result["quiet"]
    assert busy["frames_read_through"] == pytest.approx(20 * shard.FPS, rel=0.1)
    assert 0 < quiet["frames"] < busy["frames"] <= busy["frames_read_through"]
    assert 0 < quiet["crops"] < busy["crops"]
    for case in (busy, quiet):
        assert sum(case["stages"].values()) == pytest.approx(1) and min(case["stages"].values()) > 0
        assert case["ways"]["frames of the route"] <= case["ways"]["frames read through"]
    lines = shard.report(result).splitlines()
    table = lines[: lines.index("")]
    assert all(line.count("|") == 4 for line in table) and len(table) == 18
    assert lines[-1] == "Two cameras: 1 workers 1.0 s (2 workers: with the start of Ray)"
