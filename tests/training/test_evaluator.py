"""Checkpoints evaluated beside training: it never notices, nothing is done twice, and whatever fails is said."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taudl_dist.cli import main
from taudl_dist.commands.train import parse_config
from taudl_dist.training import Interrupted, evaluator, train
from taudl_dist.training.evaluations import Evaluations
from taudl_dist.training.saved import step_of

from .conftest import FLAGS, assert_equal, state, tiny_dataset

EVALUATED = ["--evaluate-every", "4", "--checkpoint.keep", "1"]
RECORDS = """
import json, sys, time
from pathlib import Path
from taudl_dist.training.evaluations import Evaluations
run, name = Path(sys.argv[1]), sys.argv[2]
step = int(name.split("-")[1])
record = Evaluations(run=run)
with (run / "asked").open("a") as file:
    file.write(f"{step} ")
record.add({"step": step, "checkpoint": name, "dataset_digest": "d", "metric": "mAP", "metrics": {"mAP": 1 / step}, "seconds": 1})
record.point_to_best()
"""
"""Stands for the process that evaluates: earlier is better."""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset(tmp_path_factory.mktemp("probed") / "dataset", num_probes=5)


@pytest.fixture(scope="module")
def undisturbed(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(probed, tmp_path_factory.mktemp("undisturbed") / "run")


def _train(data: Path, out: Path, *words: str) -> Path:
    return train(parse_config(["--data", str(data), "--out", str(out), *FLAGS, *words]))


def _steps(run: Path) -> list[int]:
    return sorted(map(step_of, (run / "checkpoints").iterdir()))


@pytest.fixture
def stands_for(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a script stand for the process that evaluates."""

    def replace(script: str) -> None:
        def start(run: Any, checkpoint: Path, errors: Any) -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", script, str(run.path), checkpoint.name], stderr=errors)

        monkeypatch.setattr(evaluator, "_start", start)

    return replace


def test_the_best_is_kept_and_training_does_not_notice(
    probed: Path, undisturbed: Path, tmp_path: Path, stands_for: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stands_for(RECORDS)
    run = _train(probed, tmp_path / "run", *EVALUATED)
    assert_equal(state(run), state(undisturbed))
    assert_equal(load_file(run / "model.safetensors"), load_file(undisturbed / "model.safetensors"))
    assert [row["step"] for row in Evaluations(run=run).rows()] == [4, 8, 12]
    assert step_of((run / "best").resolve()) == 4
    assert {4, 12} <= set(_steps(run))
    err = capsys.readouterr().err
    assert "evaluated step 4: mAP 25.0 (percent; in 1 s)  the best so far" in err
    assert "evaluated step 12: mAP 8.3 (percent; in 1 s)  best: step 4" in err


def test_a_resumed_run_evaluates_what_is_left_and_nothing_twice(
    probed: Path, undisturbed: Path, tmp_path: Path, stands_for: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped while its first evaluation is under way; then resumed; then, all done, resumed again."""
    stands_for("import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(Interrupted):
        _train(probed, tmp_path / "run", *EVALUATED, "--stop-at", "7")
    assert time.monotonic() - began < 30
    run = tmp_path / "run"
    assert "no time to evaluate step 4; done when the run is resumed" in capsys.readouterr().err
    assert _steps(run) == [4, 7]  # 4 is still to be evaluated

    stands_for(RECORDS)
    for _ in range(2):
        train(parse_config(["--out", str(run), "--resume"]))
        assert (run / "asked").read_text().split() == ["4", "8", "12"]
        assert_equal(state(run), state(undisturbed))


FAILURES: list[tuple[str, str]] = [
    ("import sys; sys.exit('taudl evaluation: error: no room')", "(taudl evaluation: error: no room)"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "(its process was ended by SIGKILL, out of memory?)"),
    ("import sys; sys.exit(3)", "(its process ended with code 3)"),
    ("pass", "(its process ended with code 0)"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_an_evaluation_that_fails_is_said_and_tried_again(
    probed: Path, tmp_path: Path, stands_for: Any, capsys: pytest.CaptureFixture[str], failure: tuple[str, str]
) -> None:
    script, reason = failure
    stands_for(script)
    run = _train(probed, tmp_path / "run", "--evaluate-every", "8", "--checkpoint.keep", "1")
    err = capsys.readouterr().err
    assert f"warning: step 8 could not be evaluated {reason}; training does not need it and goes on" in err
    assert [set(row) >= {"step", "error"} for row in Evaluations(run=run).rows()] == [True, True]
    assert not (run / "best").exists()
    stands_for(RECORDS)
    train(parse_config(["--out", str(run), "--resume"]))
    assert "12" in (run / "asked").read_text().split()
    assert "error" not in Evaluations(run=run).rows()[-1]


REFUSED = [
    (["evaluation.every=-1"], 2, "0 (none) or a number of steps"),
    (["evaluation.data=x"], 2, "add --evaluate-every N"),
    (["--evaluate-every", "4", "--evaluate-data", "nowhere"], 1, "nowhere"),
    (["--evaluate-every", "4", "--evaluation.metric", "map"], 1, "which gives rank1, rank5, rank10, rank20, mAP, mINP"),
    (["--evaluate-every", "4", "--evaluation.metric", "label_free/reciprocity"], 1, "which gives rank1"),
]


@pytest.mark.parametrize("refused", REFUSED)
def test_what_could_only_fail_is_refused_at_once(
    probed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: tuple[list[str], int, str]
) -> None:
    words, code, message = refused
    assert main(["train", "--data", str(probed), "--out", str(tmp_path / "run"), *FLAGS, *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_evaluated_for_real_in_mlflow_and_its_registry(
    probed: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own process, the run's MLflow, the registry, and a program that has only what the registry holds."""
    from taudl_dist import tracked_models, tracking

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = _train(
        probed, tmp_path / "run", "--evaluate-every", "12", "--tracking.uri", uri, "--evaluation.metric", "rank1"
    )
    assert_equal(state(run), state(undisturbed))
    rows = Evaluations(run=run).rows()
    assert [row["step"] for row in rows] == [12], capsys.readouterr().err
    assert {"rank1", "mAP", "mINP", "num_valid_queries"} <= set(rows[0]["metrics"])
    place = json.loads((run / "run.json").read_text())["mlflow"]
    client = tracking.connect(uri)
    models = tracked_models.by_step(client, place)
    assert {step: model.tags["sha256"] for step, model in models.items()} == {r["step"]: r["sha256"] for r in rows}
    assert place["model_id"] == models[12].model_id  # the final weights are those of the last evaluation
    for row in rows:
        found = {metric.key: metric.value for metric in models[row["step"]].metrics}
        assert found == {f"eval/{name}": value for name, value in row["metrics"].items()}
    history = client.get_metric_history(place["run_id"], "eval/mAP")
    assert [(metric.step, metric.value) for metric in history] == [(r["step"], r["metrics"]["mAP"]) for r in rows]
    assert tracked_models.send(run, rows)  # again changes nothing
    assert {step: m.model_id for step, m in tracked_models.by_step(client, place).items()} == {
        step: model.model_id for step, model in models.items()
    }

    capsys.readouterr()
    for _ in range(2):  # the second time to no effect
        assert main(["export", "--model", str(run / "best"), "--register", "reid", "--json"]) == 0
        registered = json.loads(capsys.readouterr().out)["registered"]
        assert (registered["version"], registered["uri"]) == (1, "models:/reid@champion")
    best = Evaluations(run=run).best()
    assert best and registered["model_id"] == models[best["step"]].model_id
    assert main(["export", "--model", str(tmp_path), "--register", "reid"]) == 1

    images = np.random.default_rng(0).normal(size=(5, 3, 32, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    program = f"""
import sys
sys.path[:] = [entry for entry in sys.path if entry != {str(Path(evaluator.__file__).parents[2])!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
import mlflow, numpy as np
mlflow.set_tracking_uri({uri!r})
features = mlflow.pyfunc.load_model("models:/reid@champion").predict(np.load("images.npy"))
import taudl_dist
assert "mlartifacts" in taudl_dist.__file__, taudl_dist.__file__
np.save("features.npy", features)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    from taudl_dist.model import load_model

    with torch.inference_mode():
        expected = load_model(run / "best")(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, atol=1e-6 * np.abs(expected).max())
