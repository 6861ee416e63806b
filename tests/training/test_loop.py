"""Runs in one process: what they write, stopping and resuming bit for bit, and every refusal."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taudl_dist.cli import main
from taudl_dist.commands.train import parse_config
from taudl_dist.errors import UsageError, UserError
from taudl_dist.training import Interrupted, checkpoint, train
from taudl_dist.training.loop import Loop
from taudl_dist.training.run_folder import Overtaken, open_run
from taudl_dist.training.world import World

from .conftest import FLAGS, assert_equal, rows, start, state, tiny_dataset, wait_for_step


def _train(dataset: Path, out: Path, *words: str) -> Path:
    return train(parse_config(["--data", str(dataset), "--out", str(out), *FLAGS, *words]))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(dataset, tmp_path_factory.mktemp("undisturbed") / "run")


def test_the_run_folder_holds_what_it_should(undisturbed: Path, dataset: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "run.json",
        "lock",
        "workers",
    }
    lines = rows(undisturbed)
    assert [row["step"] for row in lines] == list(range(12))
    assert set(lines[0]) == {
        "step",
        "loss",
        "pctd",
        "ccta",
        "mutual",
        "lr",
        "images_per_s",
        "data_wait_s",
        "time",
        "workers",
        "memory_bytes",
    }
    assert lines[0]["loss"] == pytest.approx(0.3 * lines[0]["pctd"] + 0.7 * lines[0]["ccta"], rel=1e-12)
    assert lines[6]["lr"] == 3.5e-4 > lines[9]["lr"]
    assert sorted(map(checkpoint.step_of, (undisturbed / "checkpoints").iterdir())) == [4, 8, 12]
    info = json.loads((undisturbed / "run.json").read_text())
    assert info["attempts"][0] | {"world_size": 1, "from_step": 0} == info["attempts"][0]
    model = json.loads((undisturbed / "model.json").read_text())
    assert (model["step"], model["dataset_digest"]) == (
        12,
        json.loads((dataset / "dataset.json").read_text())["digest"],
    )


def test_the_same_again_is_bit_equal(undisturbed: Path, dataset: Path, tmp_path: Path) -> None:
    again = _train(dataset, tmp_path / "again")
    assert_equal(state(again), state(undisturbed))
    assert [row["loss"] for row in rows(again)] == [row["loss"] for row in rows(undisturbed)]


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_stopped_and_resumed_is_bit_equal(undisturbed: Path, dataset: Path, tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(Interrupted, match=f"after {stop_at} steps.*--resume"):
        _train(dataset, tmp_path / "run", "--stop-at", str(stop_at))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run = train(parse_config(["--out", str(tmp_path / "run"), "--resume"]))
    assert_equal(state(run), state(undisturbed))
    assert_equal(_weights(run), _weights(undisturbed))
    timeless = [{k: row[k] for k in ("step", "loss", "pctd", "ccta", "lr")} for row in rows(run)]
    assert timeless == [{k: row[k] for k in ("step", "loss", "pctd", "ccta", "lr")} for row in rows(undisturbed)]
    assert [attempt["from_step"] for attempt in json.loads((run / "run.json").read_text())["attempts"]] == [0, stop_at]


def test_a_finished_run_can_be_resumed_to_no_effect(undisturbed: Path, dataset: Path, tmp_path: Path) -> None:
    run = _train(dataset, tmp_path / "run")
    before = (run / "metrics.jsonl").read_text()
    train(parse_config(["--out", str(run), "--resume"]))
    assert (run / "metrics.jsonl").read_text() == before
    assert_equal(_weights(run), _weights(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_signal_and_a_resume_equal_the_undisturbed_run(dataset: Path, tmp_path: Path, number: int) -> None:
    long = ["--steps", "400", "--checkpoint.every", "20"]
    expected = _train(dataset, tmp_path / "expected", *long)
    run = tmp_path / "run"
    process = start("--data", dataset, "--out", run, *FLAGS, *long)
    wait_for_step(run, 50, process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step"')
    else:
        assert process.returncode == 128 + number
        assert "--resume" in err
        assert "Traceback" not in err
    train(parse_config(["--out", str(run), "--resume"]))
    assert_equal(state(run), state(expected))
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(expected)]


REFUSED = [
    (["--recipe", "paper"], (6,), UserError, "--recipe pctd"),
    (["--weights", "missing.pth"], (6, 6), UserError, "no such file"),
    (["--weights", "{data}/foreign.safetensors"], (6, 6), UserError, "do not fit small"),
    (["--weights", "imagenet"], (6, 6), UserError, "no ImageNet weights for small"),
    (["--tracking.uri", "./mlruns"], (6, 6), UsageError, "sqlite"),
    (["--batch.images", "1"], (6, 6), UsageError, "batch.images"),
    (["--workers", "1:3"], (6, 6), UsageError, "groups_per_camera=2"),
]


@pytest.mark.parametrize(("words", "sizes", "kind", "message"), REFUSED, ids=[row[3] for row in REFUSED])
def test_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], sizes: tuple[int, ...], kind: type[Exception], message: str
) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "foreign.safetensors")
    words = [word.format(data=tmp_path) for word in words]
    with pytest.raises(kind, match=message):
        _train(tiny_dataset(tmp_path / "data", sizes), tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_one_camera_trains_with_pctd(tmp_path: Path) -> None:
    run = _train(tiny_dataset(tmp_path / "data", (6,)), tmp_path / "run", "--recipe", "pctd")
    assert {row["ccta"] for row in rows(run)} == {0.0}


@pytest.mark.parametrize(
    "words",
    [["--recipe", "jcc"], ["--precision", "bf16"], ["--optim.clip-norm", "0.1"], ["--model.batch-norm", "sync"]],
    ids=str,
)
def test_other_settings_train_and_resume(dataset: Path, tmp_path: Path, words: list[str]) -> None:
    expected = _train(dataset, tmp_path / "expected", *words)
    with pytest.raises(Interrupted):
        _train(dataset, tmp_path / "run", *words, "--stop-at", "5")
    assert_equal(state(train(parse_config(["--out", str(tmp_path / "run"), "--resume"]))), state(expected))


def test_absent_cameras_wait_with_their_heads(tmp_path: Path) -> None:
    """Three of five cameras a step: a head is moved as often as its camera came, and the run resumes."""
    data = tiny_dataset(tmp_path / "data", (4, 5, 6, 4, 4))
    run = _train(data, tmp_path / "run", "--batch.cameras", "3", "--steps", "6", "--checkpoint.every", "2")
    tensors = state(run)
    moves = [int(tensors[f"cam{camera}/weight:step"]) for camera in range(1, 6)]
    assert sum(moves) == 18
    assert max(moves) - min(moves) <= 1


def test_sigusr1_asks_for_a_checkpoint_alone(dataset: Path, tmp_path: Path) -> None:
    config = parse_config(["--data", str(dataset), "--out", str(tmp_path), *FLAGS, "--checkpoint.every", "100"])
    run = open_run(config, dataset_digest="d", workers=(1, 1))
    asked = iter([0, 0, signal.SIGUSR1] + [0] * 9)
    outcome = Loop(config, run, World(), stop_signal=lambda: next(asked)).train()
    assert (outcome.step, outcome.signal) == (12, 0)
    assert sorted(map(checkpoint.step_of, run.checkpoints.iterdir())) == [3, 12]


def test_a_worker_that_outlived_its_attempt_stops_and_leaves_no_trace(dataset: Path, tmp_path: Path) -> None:
    """Its attempt is at step 7 when another begins and finishes, from the checkpoint of step 4 if that is written; then it goes on."""
    config = parse_config(["--data", str(dataset), "--out", str(tmp_path), *FLAGS])
    run = open_run(config, dataset_digest="d", workers=(1, 1))
    done = 0

    def interrupted() -> int:
        nonlocal done
        done += 1
        if done == 7:
            Loop(config, run, World(), stop_signal=lambda: 0).train()
        return 0

    with pytest.raises(Overtaken, match="ends here"):
        Loop(config, run, World(), stop_signal=interrupted).train()
    assert [row["step"] for row in rows(run.path)] == list(range(12))
    assert sorted(map(checkpoint.step_of, run.checkpoints.iterdir())) == [4, 8, 12]
    assert len(run.info()["attempts"]) == 2
    assert run.info()["outcome"]["step"] == 12


def test_divergence_is_named_and_not_saved(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taudl_dist.training import loop

    real = loop.train_step
    monkeypatch.setattr(
        loop,
        "train_step",
        lambda learner, batch, *, lr: real(learner, batch, lr=lr) * (float("nan") if batch.step == 6 else 1),
    )
    with pytest.raises(UserError, match=r"loss of step 6 is nan.*optim.lr"):
        _train(dataset, tmp_path / "run")
    assert [checkpoint.step_of(path) for path in (tmp_path / "run" / "checkpoints").iterdir()] == [4]


def test_a_corrupt_image_stops_the_run_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_dataset(tmp_path / "data", spoil="1-2")
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), *FLAGS]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert ".tar: cam2-" in err


def test_json_summary(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(dataset), "--out", str(tmp_path / "run"), *FLAGS, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["mlflow"], result["run"]) == (12, None, str(tmp_path / "run"))
    assert main(["train", "--data", str(dataset), "--out", str(tmp_path / "run"), *FLAGS]) == 1
    assert "--resume" in capsys.readouterr().err


def test_a_resume_of_nothing_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path / "nowhere"), "--resume"]) == 1
    assert "nowhere holds no run to go on with" in capsys.readouterr().err
