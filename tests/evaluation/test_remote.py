"""A dataset in an object store is embedded and ranked as its local copy is."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from taudl_dist.cli import main


def test_evaluate_embed_and_report_say_the_same(dataset_path, run, object_store, tmp_path, capsys):
    results, features = [], []
    uri = object_store.upload(dataset_path, "evaluation/dataset")
    for name, data in (("local", str(dataset_path)), ("remote", uri)):
        page = tmp_path / f"{name}.html"
        assert main(["evaluate", "--data", data, "--model", str(run), "--json", "--report", str(page)]) == 0
        results.append(json.loads(capsys.readouterr().out))
        assert main(["embed", "--data", data, "--model", str(run), "--out", str(tmp_path / f"{name}.parquet")]) == 0
        capsys.readouterr()
        features.append(pq.read_table(tmp_path / f"{name}.parquet"))
    assert results[1].pop("dataset") == "s3://corpus/evaluation/dataset" != results[0].pop("dataset")
    assert results[0] == results[1]
    assert features[0].equals(features[1])
    assert "run on dataset" in page.read_text()
