"""Runs read from folders: what state they are in, what they hold, and folders that are no runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from taudl_dist.comparison.compare import numbers
from taudl_dist.comparison.run import Curve, distinct_names, read_run
from taudl_dist.errors import UserError
from taudl_dist.training.run_folder import locked

STATES = [
    ("finished", 40, "finished"),
    ({"step": 12, "signal": 15, "model": None}, 12, "stopped"),
    ({"step": 12, "signal": 0, "model": None}, 12, "stopped"),  # --stop-at
    (None, 7, "failed"),
    (None, 0, "failed"),
]


@pytest.mark.parametrize("case", STATES, ids=str)
def test_state(write_run, case):
    outcome, steps, status = case
    run = read_run(write_run("r", outcome=outcome, steps=steps))
    assert (run.status, run.steps) == (status, steps)
    assert set(run.curves) == (set() if steps == 0 else {"loss", "pctd", "ccta"})


def test_a_run_that_is_going_on(write_run):
    path = write_run("r", outcome=None, steps=7)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # being written
    with locked(path):
        run = read_run(path)
    assert (run.status, run.steps) == ("running", 7)
    assert read_run(path).status == "failed"


def test_what_stands_in_it(write_run):
    run = read_run(write_run("r", recipe="pctd", seed=3))
    assert run.settings["loss.ccta_weight"] == "0.0" and run.settings["seed"] == "3"
    assert not {"out", "data", "workers", "tracking.uri", "checkpoint.every"} & set(run.settings)
    assert run.dataset_digest == "d" * 64
    assert run.weights_sha256 == "weights of r"
    assert run.facts["dataset"].endswith("/corpus") and run.facts["workers"] == "1"


def test_the_final_value_is_a_mean():
    curve = Curve(steps=np.arange(40.0), values=np.arange(40.0))
    assert curve.final() == 38.5
    assert Curve(steps=np.arange(3.0), values=np.array([1.0, 2.0, 6.0])).final() == 6


def test_runs_of_one_name_are_told_apart(write_run):
    runs = [read_run(write_run(name)) for name in ("a/r", "b/r", "c")]
    assert [run.name for run in distinct_names(runs)] == [runs[0].place, runs[1].place, "c"]


def damage(path, name, text):
    (path / name).unlink() if text is None else (path / name).write_text(text)
    return path


DAMAGED = [
    ("run.json", None, r"no run\.json in it"),
    ("run.json", "{", r"run\.json: not readable"),
    ("config.yaml", None, r"config\.yaml is not what a run wrote"),
    ("config.yaml", "a: [", r"config\.yaml is not what a run wrote"),
    ("metrics.jsonl", "{\n{}\n", r"metrics\.jsonl is not what a run wrote"),
    ("metrics.jsonl", "{}\n{}\n", r"metrics\.jsonl is not what a run wrote"),
]


@pytest.mark.parametrize("case", DAMAGED, ids=str)
def test_what_is_no_run(write_run, case):
    name, text, message = case
    with pytest.raises(UserError, match=message):
        read_run(damage(write_run("r"), name, text))


def test_a_run_before_its_first_step(write_run):
    path = write_run("r", outcome=None)
    (path / "metrics.jsonl").unlink()
    assert read_run(path).curves == {}


def test_evaluated_checkpoints_give_curves(write_run):
    path = write_run("a")
    rows = [
        {
            "step": step,
            "checkpoint": f"step-{step:010d}-ab",
            "dataset_digest": "e" * 64,
            "metric": "mAP",
            "metrics": metrics,
        }
        for step, metrics in ((20, {"mAP": 0.5, "rank1": 0.75}), (40, {"mAP": 0.25, "rank1": 0.5, "mINP": 0.125}))
    ]
    failed = {"step": 30, "checkpoint": "step-0000000030-ab", "error": "no room"}
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, failed]))
    run = read_run(path)
    assert run.evaluations == rows[1]["metrics"]  # of the final weights
    assert (run.curves["mAP"].steps.tolist(), run.curves["mAP"].values.tolist()) == ([20, 40], [0.5, 0.25])
    assert run.evaluated_on == {"e" * 36}
    found = numbers(run)
    assert (found["mAP"], found["mAP (best)"], found["rank1 (best)"]) == (0.25, 0.5, 0.75)


def test_the_points_of_two_curves():
    first = Curve(steps=np.array([1.0, 2.0]), values=np.array([0.1, 0.2]))
    second = Curve(steps=np.array([2.0, 3.0]), values=np.array([0.3, 0.4]))
    joined = first.joined(second)
    assert (joined.steps.tolist(), joined.values.tolist()) == ([1, 2, 3], [0.1, 0.3, 0.4])
    assert first.joined(None) is first
