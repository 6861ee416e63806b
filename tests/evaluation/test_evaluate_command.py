"""`taudl evaluate` and `taudl embed` as a user types them."""

import json

import pytest

from taudl_dist import tracking
from taudl_dist.cli import main


@pytest.fixture
def logged(monkeypatch):
    """What reaches the tracked run."""
    calls = []
    monkeypatch.setattr(tracking, "log_evaluation", lambda *args, **options: calls.append((args, options)))
    return calls


def test_json_goes_to_stdout_and_to_the_run(dataset, run, tmp_path, capsys, logged):
    report = tmp_path / "report.html"
    command = [
        "evaluate",
        "--data",
        str(dataset.path),
        "--model",
        str(run),
        "--json",
        "--baselines",
        "--report",
        str(report),
    ]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    names = {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "num_valid_queries", "dataset_digest", "model_digest"}
    assert names <= printed.keys()
    assert report.is_file()
    ((folder, metrics), options), = logged  # fmt: skip
    assert (folder, metrics) == (run, printed)
    assert options == {"dataset_digest": dataset.digest, "artifacts": [report]}


def test_table(dataset, run, capsys, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), "--metric", "cosine"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["R1", "R5", "R10", "R20", "mAP", "mINP"]
    assert "cosine distance" in out
    assert logged[0][1]["artifacts"] == []


def test_several_datasets_give_mean_and_deviation(dataset, run, capsys, logged):
    pairs = ["--data", str(dataset.path), str(dataset.path), "--model", str(run), str(run)]
    assert main(["evaluate", *pairs, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rank1_std"] == 0
    assert printed["rank1"] == printed["splits"][0]["rank1"] == printed["splits"][1]["rank1"]
    assert len(logged) == 2
    assert main(["evaluate", *pairs, "--rerank"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "1",
        "2",
        "mean",
        "deviation",
        "in",
    ]


@pytest.mark.parametrize("wrong", [["--data", "a", "b"], ["--protocol", "vipers"], ["--report", "r.html", "--rerank"]])
def test_wrong_usage_of_several_and_of_protocols(dataset, run, wrong, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), *wrong]) == 2
    assert logged == []


@pytest.mark.parametrize("wrong", [["--metric", "manhattan"], ["--frames", "-1"], []])
def test_wrong_usage(dataset, run, wrong, logged):
    needed = ["--data", str(dataset.path)] + (["--model", str(run)] if wrong else [])
    assert main(["evaluate", *needed, *wrong]) == 2
    assert logged == []


def test_no_such_run(dataset, tmp_path, capsys):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(tmp_path / "nowhere")]) == 1
    assert "no model.safetensors there" in capsys.readouterr().err


def test_embed(dataset, run, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    command = ["embed", "--data", str(dataset.path), "--model", str(run), "--out", str(out), "--split", "train"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tracklets"] == 8
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
