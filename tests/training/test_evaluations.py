"""The record of evaluated checkpoints: each step once, the best by name, and what pruning must leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.config import Config, resolve
from taudl_dist.training.evaluations import Evaluations, is_due


def _record(tmp_path: Path, *steps: int) -> Evaluations:
    """A run folder with complete checkpoints of these steps."""
    for step in steps:
        folder = tmp_path / "checkpoints" / _name(step)
        folder.mkdir(parents=True)
        (folder / "COMPLETE.json").write_text("{}")
    return Evaluations(run=tmp_path)


def _name(step: int) -> str:
    return f"step-{step:010d}-ab"


def _row(step: int, value: float, **more: Any) -> dict[str, Any]:
    row = {"step": step, "checkpoint": _name(step), "dataset_digest": "d", "metric": "mAP", "metrics": {"mAP": value}}
    return {**row, **more}


def _failure(step: int) -> dict[str, Any]:
    return {"step": step, "checkpoint": _name(step), "error": "out of memory"}


CONFIG = resolve({"steps": 50, "evaluation": {"every": 20}})


@pytest.mark.parametrize(
    ("every", "step", "expected"),
    [(0, 20, False), (20, 20, True), (20, 30, False), (20, 50, True), (20, 0, False), (100, 50, True)],
)
def test_which_steps_are_due(every: int, step: int, expected: bool) -> None:
    """Multiples, and the last step; none without --evaluate-every."""
    assert is_due(resolve({"steps": 50, "evaluation": {"every": every}}), step) is expected


def test_each_step_is_recorded_once(tmp_path: Path) -> None:
    record = _record(tmp_path, 20, 40)
    assert record.rows() == []
    assert record.add(_row(40, 0.5))
    assert record.add(_row(20, 0.25))
    assert not record.add(_row(40, 0.75))
    assert [(row["step"], row["metrics"]["mAP"]) for row in record.rows()] == [(20, 0.25), (40, 0.5)]
    with record.path.open("a") as file:
        file.write('{"step": 50, "che')  # killed while it wrote
    assert len(record.rows()) == 2
    assert record.add(_row(50, 0.1))
    assert [json.loads(line)["step"] for line in record.path.read_text().splitlines()] == [20, 40, 50]


def test_lines_that_are_no_evaluation_do_not_count(tmp_path: Path) -> None:
    record = _record(tmp_path, 20)
    strange = [{"metrics": [1]}, {"metric": None}, {"step": "20"}, {"checkpoint": "../x"}, {"checkpoint": 7}]
    lines = [json.dumps({**_row(20, 0.5), **change}) for change in strange]
    lines += [json.dumps({"step": 20, "checkpoint": _name(20)}), "[" * 100_000, "\xff", "[]"]
    record.path.write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    assert record.rows() == []
    assert record.best() is None


BEST = [
    ([], None),  # nothing yet
    ([_failure(20)], None),  # nothing that succeeded
    ([_row(20, 0.5), _row(40, 0.4)], 20),
    ([_row(20, 0.5), _row(40, 0.5)], 20),  # of equal ones the first
    ([_row(20, 0.5), _row(30, 0.9), _row(40, 0.4)], 20),  # the checkpoint of step 30 is gone
    ([_row(20, 0.9, dataset_digest="other"), _row(40, 0.4)], 40),  # other data does not compare
    ([_row(20, 0.9, metrics={"rank1": 0.9}), _row(40, 0.4)], 40),  # it has not the number that decides
    ([_row(20, 0.5), _failure(40)], 20),
]


@pytest.mark.parametrize(("rows", "step"), BEST)
def test_the_best(tmp_path: Path, rows: list[dict[str, Any]], step: int | None) -> None:
    record = _record(tmp_path, 20, 40)
    for row in rows:
        record.add(row)
    best = record.best()
    assert (best and best["step"]) == step
    record.point_to_best()
    assert (tmp_path / "best").is_symlink() == (step is not None)
    if step:
        assert (tmp_path / "best").resolve().name == _name(step)


def test_the_link_moves_on(tmp_path: Path) -> None:
    record = _record(tmp_path, 20, 40)
    for row in (_row(20, 0.1), _row(40, 0.2)):
        record.add(row)
        record.point_to_best()
        assert (tmp_path / "best" / "COMPLETE.json").is_file()
        assert (tmp_path / "best").resolve().name == _name(row["step"])
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_what_pruning_leaves(tmp_path: Path) -> None:
    """The best, and those whose turn is still to come; a step that is not due has no turn."""
    record = _record(tmp_path, 10, 20, 40, 50)
    assert record.pinned(Config()) == set()
    assert record.pinned(CONFIG) == {_name(20), _name(40), _name(50)}
    record.add(_row(20, 0.5))
    record.add(_failure(40))
    assert [path.name for path in record.pending(CONFIG)] == [_name(50)]
    assert record.pinned(CONFIG) == {_name(20), _name(50)}
    record.add(_row(50, 0.6))
    assert record.pinned(CONFIG) == {_name(50)}


def test_a_new_attempt_tries_failures_again_and_forgets_what_it_will_do_anew(tmp_path: Path) -> None:
    record = _record(tmp_path, 20, 40)
    record.begin(0)
    assert not record.path.exists()
    for row in (_row(10, 0.5), _failure(20), _row(30, 0.6), _row(40, 0.7)):
        record.add(row)
    record.begin(30)
    assert [row["step"] for row in record.rows()] == [10, 30]
    assert [path.name for path in record.pending(CONFIG)] == [_name(20), _name(40)]
