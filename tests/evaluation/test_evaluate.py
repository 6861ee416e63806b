"""A whole evaluation on a small world, against ranking by hand."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from taudl_dist import evaluation
from taudl_dist.dataset import open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation import Protocol, evaluate, rank_metrics
from taudl_dist.evaluation.evaluate import table
from taudl_dist.evaluation.features import embed
from taudl_dist.evaluation.probes import read_probes
from taudl_dist.model import load_model


def test_result_is_that_of_its_features(dataset, run):
    result = evaluate(dataset.path, run, baselines=True)
    rows = read_manifest(dataset)
    features = embed(load_model(run), dataset, rows).astype(np.float64)
    split, ids, cameras = (np.array(rows[name].to_pylist()) for name in ("split", "person_id", "camera"))
    query, gallery = split == "query", split == "gallery"
    distances = np.linalg.norm(features[query][:, None] - features[gallery], axis=2)
    expected = rank_metrics(distances, ids[query], ids[gallery], cameras[query], cameras[gallery])
    assert result["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert result["rank1"] == expected.cmc[0]
    assert (result["num_valid_queries"], result["num_skipped_queries"]) == (4, 1)
    assert (result["num_query"], result["num_gallery"]) == (5, 5)
    assert result["dataset_digest"] == dataset.digest
    assert result["model_digest"] == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads(json.dumps(result)) == result


def test_baselines_stand_beside_the_model(dataset, run):
    result = evaluate(dataset.path, run / "model.safetensors", baselines=True)
    untrained, colours = result["baselines"]
    assert untrained["name"] == "untrained network"
    assert untrained["mAP"] == result["mAP"]  # this run took no step
    assert (colours["name"], colours["rank1"]) == ("colour histogram", 1.0)  # people of one colour each
    text = table(result)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["model", "untrained", "colour"]
    assert "4 queries (1 more have no match), gallery of 5, euclidean distance" in text


def test_metric_and_frames_matter(dataset, run):
    plain, cosine, few = (
        evaluate(dataset.path, run, protocol=protocol)
        for protocol in (Protocol(), Protocol(metric="cosine"), Protocol(frames=1))
    )
    assert (cosine["metric"], few["frames"]) == ("cosine", 1)
    assert plain["num_valid_queries"] == cosine["num_valid_queries"] == few["num_valid_queries"]
    assert "baselines" not in plain


def test_negative_frames_are_wrong_usage():
    with pytest.raises(UsageError, match="frames is -1"):
        Protocol(frames=-1)


def test_a_dataset_without_queries_says_how_to_get_them(tmp_path, picture):
    from data_tools.shards import ImportTracklet, write_dataset

    frames = [(0, picture((200, 0, 0), brightness=1, seed=0))]
    tracklets = [ImportTracklet(camera=camera, split="train", name="1", frames=frames) for camera in ("cam1", "cam2")]
    path = write_dataset(tmp_path / "dataset", tracklets, settings={}, source={})
    with pytest.raises(UserError, match=r"0 query and 0 gallery tracklets.*--truth.*taudl import"):
        read_probes(open_dataset(path))


def test_probes_without_identity_are_refused(dataset, monkeypatch):
    rows = read_manifest(dataset)
    nobody = rows.set_column(rows.schema.get_field_index("person_id"), "person_id", pa.nulls(len(rows), pa.int64()))
    monkeypatch.setattr("taudl_dist.dataset.read_manifest", lambda *_, **__: nobody)
    with pytest.raises(UserError, match="10 query or gallery tracklets have no person_id"):
        read_probes(dataset)


def test_a_folder_without_weights_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match=r"no model.safetensors there; expected a run folder"):
        evaluate(dataset.path, tmp_path)


def test_package_exports():
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)
