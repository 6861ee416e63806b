"""metrics.jsonl: each step once and in order after any kill."""

import json
from pathlib import Path

from taudl_dist.training.metrics import MetricsFile


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_replayed_steps_and_a_torn_line_are_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, start=0)
    for step in range(5):
        first.write({"step": step, "loss": 0.1 + step})
    first.close()
    with path.open("ab") as file:
        file.write(b'\xff\n{"step": 5, "lo')  # a bad disk, and killed in the middle of a write
    second = MetricsFile(path, start=3)
    second.write({"step": 3, "loss": -1.0})
    second.close()
    assert _steps(path) == [0, 1, 2, 3]
    assert json.loads(path.read_text().splitlines()[3])["loss"] == -1.0


def test_a_writer_of_a_lost_attempt_cannot_reach_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lost = MetricsFile(path, start=0)
    for step in range(3):
        lost.write({"step": step})
    new = MetricsFile(path, start=1)
    lost.write({"step": 3})
    new.write({"step": 1})
    assert _steps(path) == [0, 1]


def test_numbers_stand_in_full(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path, start=0).write({"step": 0, "loss": 0.1 + 0.2})
    assert json.loads(path.read_text())["loss"] == 0.1 + 0.2
