"""`taudl reproduce`: what it refuses, what it passes on; and a table that is interrupted and goes on without doing anything twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.cli import main
from taudl_dist.commands.reproduce import parse_seeds
from taudl_dist.commands.train import given_settings, split_words
from taudl_dist.config import flatten, unflatten
from taudl_dist.errors import UsageError, UserError

SEEDS = [("1", (0,)), ("3", (0, 1, 2)), ("7,", (7,)), ("0,4", (0, 4)), ("2, 1", (2, 1))]


@pytest.mark.parametrize(("text", "seeds"), SEEDS)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "a", "1,1", "1,x", "-1", ","])
def test_seeds_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


GIVEN = [
    ("", {}, "nothing"),
    ("--steps 3000", {"steps": 3000}, "a flag equal to the default"),
    ("--model small --batch.images=64", {"model.name": "small", "batch.images": 64}, "short name, equals sign"),
    ("optim.lr=1e-3 --loss.squared", {"optim.lr": 1e-3, "loss.squared": True}, "override and switch"),
    ("--parallel.no-two-pass", {"parallel.two_pass": False}, "a switch that is off"),
    ("--config F --steps 5", {"steps": 5, "loss.sigma": 3.0}, "a file, a flag over it"),
]


@pytest.mark.parametrize(("words", "expected"), [row[:2] for row in GIVEN], ids=[row[2] for row in GIVEN])
def test_given_settings(words: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "F").write_text("steps: 4\nloss: {sigma: 3}\n")
    argv = [str(tmp_path / "F") if word == "F" else word for word in words.split()]
    flags, overrides = split_words(argv)
    for way in (argv, [*flags, *overrides]):
        assert given_settings(way, command="reproduce") == expected
    assert flatten(unflatten(expected)) == expected


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras of 6 training tracklets; 6 people as query in one and gallery in the other."""
    rng = np.random.default_rng(0)

    def jpeg() -> bytes:
        buffer = io.BytesIO()
        coarse = rng.integers(0, 256, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 48), Image.Resampling.BILINEAR).save(buffer, "JPEG")
        return buffer.getvalue()

    tracklets = [
        ImportTracklet(camera=camera, split=split, name=str(n), frames=[(i, jpeg()) for i in range(2)], person_id=n + 1)
        for camera, splits in (("cam1", ("train", "query")), ("cam2", ("train", "gallery")))
        for split in splits
        for n in range(6)
    ]
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", tracklets, settings={}, source={})


FLAGS = ["--model", "small", "--model.feature-dim", "16", "--batch.images", "16", "--batch.frames", "2", "--batch.height", "32",
         "--batch.width", "16", "--checkpoint.every", "5"]  # fmt: skip

WRONG = [
    ([], 2, "table", "no table"),
    (["table7", "--data", "D", "--out", "O"], 2, "table7", "a table that the paper does not have"),
    (["table4", "--out", "O"], 2, "--data", "no data"),
    (["table4", "--data", "missing", "--out", "O"], 1, "no such dataset folder", "no such dataset"),
    (["table4", "--data", "D", "--out", "FILE"], 2, "found a file", "a file for a folder"),
    (["table4", "--data", "D", "--out", "O", "--rows", "best"], 2, "which has jcc, pctd", "a row of another table"),
    (["table4", "--data", "D", "--out", "O", "--recipe", "jcc"], 2, "recipe: decided by the rows", "the rows decide"),
    (
        ["table4", "--data", "D", "--out", "O", "--seed", "3", "--resume"],
        2,
        "resume, seed: decided",
        "so do flags of its own",
    ),
    (["table4", "--data", "D", "--out", "O", "loss.ccta_weight=0.1"], 2, "loss.ccta_weight: decided", "as an override"),
    (["table4", "--data", "D", "--out", "O", "--config", "C"], 2, "loss.detach_numerator: decided", "in a file"),
    (["table4", "--data", "D", "--out", "O", "--stepss", "3"], 2, "--stepss", "a flag that is not there"),
    (["table4", "--data", "D", "--out", "O", "--print-config"], 2, "belongs to `taudl train`", "nothing to print"),
    (["table4", "--data", "D", "--out", "O", "--test-frames", "-1"], 2, "--test-frames -1", "less than none"),
    (["table4", "--data", "D", "D", "--out", "O"], 2, "both are", "data twice"),
]


@pytest.mark.parametrize("case", WRONG, ids=[row[3] for row in WRONG])
def test_wrong_usage_is_refused_before_anything_is_written(
    case: tuple[list[str], int, str, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, code, message, _ = case
    (tmp_path / "file").write_text("")
    (tmp_path / "c.yaml").write_text("loss: {detach_numerator: true}\n")
    places = {"D": str(data), "O": str(tmp_path / "out"), "FILE": str(tmp_path / "file"), "C": str(tmp_path / "c.yaml")}
    assert main(["reproduce", *(places.get(word, word) for word in argv)]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_torchrun_is_refused(data: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "here")):
        monkeypatch.setenv(name, value)
    assert main(["reproduce", "table4", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "--workers N" in capsys.readouterr().err


def test_a_row_that_fails_is_listed_and_the_others_go_on(
    data: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def train(config: Any) -> Path:
        asked.append((config.recipe, config.seed, config.loss.sigma))
        if config.recipe == "jcc":
            raise UserError("the loss of step 3 is nan")
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("taudl_dist.training.train", train)
    out = tmp_path / "out"
    command = ["reproduce", "table4", "--data", str(data), "--out", str(out), "--tracking.uri", "none", "loss.sigma=3"]
    assert main(command) == 1
    streams = capsys.readouterr()
    assert asked == [("jcc", 0, 3.0), ("pctd", 0, 3.0)]
    assert "jcc on tiny, seed 0: the loss of step 3 is nan" in streams.out
    assert "pctd on tiny, seed 0: RuntimeError: a fault of ours" in streams.out
    assert "Traceback" in streams.err  # our own mistakes keep theirs
    written = json.loads((out / "table4.json").read_text())
    assert [run["error"] for run in written["runs"]] == ["the loss of step 3 is nan", "RuntimeError: a fault of ours"]
    assert "## Failed" in (out / "table4.md").read_text()


def _steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _stamps(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "mlflow" not in path.name
    }


@pytest.mark.slow
def test_an_interrupted_table_goes_on_and_nothing_is_done_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "table4", "--data", str(data), "--out", str(out), "--steps", "60", *FLAGS]
    quiet = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-m", "taudl_dist.cli", *command], text=True, env=quiet,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 200
    while not (found := [run for run in out.glob("runs/pctd-*") if _steps(run) > 12]):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "stopped after 1 of 2 runs; the same command goes on" in said
    assert "JCC" in printed  # what is known so far

    [jcc], [pctd] = out.glob("runs/jcc-*"), found
    done, steps_before = _stamps(jcc), _steps(pctd)
    assert 12 < steps_before < 60
    assert main([*command, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in listed] == ["done", "interrupted"]

    assert main(command) == 0
    assert _stamps(jcc) == done
    attempts = json.loads((pctd / "run.json").read_text())["attempts"]
    assert [attempt["from_step"] for attempt in attempts] == [0, steps_before]
    assert _steps(pctd) == 60
    everything, shown = {run: _stamps(run) for run in (jcc, pctd)}, capsys.readouterr().out

    assert main(command) == 0
    assert {run: _stamps(run) for run in (jcc, pctd)} == everything
    assert capsys.readouterr().out == shown
    for part in ("Table 4.", "PCTD - JCC", "network small, not resnet50", "60 steps"):
        assert part in shown
    result = json.loads((out / "table4.json").read_text())
    assert result["is_complete"]
    assert [run["row"] for run in result["runs"]] == ["jcc", "pctd"]
    assert "<td>PCTD</td>" in (out / "table4.html").read_text()
    _check_mlflow(out, [run["mlflow_run_id"] for run in result["runs"]])


def _check_mlflow(out: Path, children: list[str]) -> None:
    """One parent, with the table's files and numbers, over two children that have theirs."""
    from taudl_dist import tracking

    client = tracking.connect(f"sqlite:///{out / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("taudl")
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    [parent] = [run for run_id, run in runs.items() if run_id not in children]
    assert len(runs) == 3
    assert (parent.info.run_name, parent.info.status) == ("table4 on tiny", "FINISHED")
    assert {"pctd/rank1", "pctd/mAP", "jcc/rank1", "jcc/mAP"} == parent.data.metrics.keys()
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table4.json", "table4.md", "table4.html"}
    for child in children:
        assert runs[child].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert runs[child].data.metrics["eval/mAP"] > 0
