"""Runs read back from a real MLflow store: sweeps, evaluations, and a store that is not there."""

from __future__ import annotations

import json

import pytest

from taudl_dist import tracking
from taudl_dist.cli import main
from taudl_dist.comparison.run import read_run
from taudl_dist.comparison.tracked import find_runs, with_tracked
from taudl_dist.config import load_yaml, resolve
from taudl_dist.errors import UserError
from taudl_dist.training.run_folder import RunFolder

DEAD = "http://127.0.0.1:9"  # nothing listens on the discard port


def track(path, **tags):
    """Logs a finished run folder, as training does."""
    config, run = resolve(load_yaml(path / "config.yaml")), RunFolder(path=path)
    place = tracking.start(config, run.info())
    for name, value in tags.items():
        tracking.connect(place["uri"]).set_tag(place["run_id"], name.replace("__", "."), value)
    model = {"weights": "w", "sha256": f"weights of {path.name}", "dataset_digest": "d", "step": 40}
    run.update(mlflow=tracking.finish(place, run.metrics, status="FINISHED", model=model))
    return place


@pytest.mark.slow
def test_a_sweep(write_run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = write_run("a", base=2.0)
    alone = track(first)
    client = tracking.connect(uri)
    parent = client.create_run(alone["experiment_id"], run_name="table4").info.run_id
    seeds = [write_run(f"s{seed}", seed=seed, base=2.0 + seed) for seed in (1, 2)]
    for path in seeds:
        track(path, mlflow__parentRunId=parent)
        for step, rank1 in ((20, 0.25), (40, 0.5)):
            tracking.log_evaluation(path, {"rank1": rank1}, dataset_digest="e" * 64, step=step)

    runs = {run.name: run for run in find_runs("taudl", uri=uri)}
    assert list(runs) == ["a", "s1", "s2"]  # not the parent
    folder = read_run(seeds[0])
    assert runs["s1"].settings == folder.settings
    assert (runs["s1"].status, runs["s1"].steps, runs["s1"].parent) == ("finished", 40, "table4")
    assert runs["s1"].curves["loss"].values.tolist() == folder.curves["loss"].values.tolist()
    assert runs["s1"].evaluations == {"rank1": 0.5}
    assert runs["s1"].evaluated_on == {"e" * 36}
    assert runs["s1"].curves["rank1"].values.tolist() == [0.25, 0.5]
    assert runs["s1"].weights_sha256 == "weights of s1"
    joined = with_tracked(folder)
    assert (joined.parent, joined.evaluations, joined.evaluated_on) == ("table4", {"rank1": 0.5}, {"e" * 36})

    assert main(["compare", "--experiment", "taudl", "--uri", uri, "--json", "--out", str(tmp_path / "c.png")]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [(group["name"], group["runs"]) for group in groups] == [("a", ["a"]), ("table4", ["s1", "s2"])]
    assert groups[1]["numbers"]["pctd"]["mean"] == 3.5
    assert main(["compare", *map(str, [first, *seeds]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"] == groups

    assert [run.name for run in find_runs("taudl", filter_string="params.seed = '2'", uri=uri)] == ["s2"]
    for words, message in (
        (["--experiment", "other"], "which holds taudl, Default"),
        (["--experiment", "taudl", "--filter", "params.seed = '9'"], "no run matches"),
        (["--experiment", "taudl", "--filter", "nonsense"], "MLflow at"),
    ):
        assert main(["compare", *words, "--uri", uri]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="MLflow at http"):
        find_runs("taudl", uri=DEAD)


def test_a_store_that_is_gone_costs_a_line(write_run, capsys):
    path = write_run("a")
    uri = f"sqlite:///{path}/nowhere.db"
    RunFolder(path=path).update(mlflow={"uri": uri, "run_id": "x", "model_id": None})
    assert main(["compare", str(path)]) == 0
    assert "no such file" in capsys.readouterr().err
    assert not (path / "nowhere.db").exists()
