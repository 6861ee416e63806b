"""Features by block and by key, out of a file and out of the dataset; and files that do not belong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taudl_dist.dataset import read_manifest
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.errors import UserError
from taudl_dist.evaluation import gallery
from taudl_dist.evaluation.embedding import write_features
from taudl_dist.evaluation.evaluate import model_digest
from taudl_dist.evaluation.features import extractor
from taudl_dist.evaluation.gallery import EmbeddedTracklets, open_features
from taudl_dist.model import load_model


@pytest.fixture(scope="module")
def path(dataset_path, run, tmp_path_factory):
    file = tmp_path_factory.mktemp("features") / "features.parquet"
    write_features(dataset_path, run, file, frames=2)
    return file


def test_the_file_and_the_dataset_give_the_same(path, dataset, run, monkeypatch):
    stored = open_features(path, dataset_digest=dataset.digest, model_digest=model_digest(run))
    rows = read_manifest(dataset, splits=SPLITS)
    assert (stored.frames, stored.num_tracklets, stored.feature_dim) == (2, len(rows), 16)
    monkeypatch.setattr(gallery, "_BLOCK_ELEMENTS", 48)  # three tracklets
    monkeypatch.setattr(gallery, "_BLOCK_TRACKLETS", 5)
    embedded = EmbeddedTracklets(
        extract=extractor(load_model(run)), dataset=dataset, rows=rows, model_digest=stored.model_digest, frames=2
    )
    assert embedded.num_tracklets == stored.num_tracklets
    both = [list(source.blocks()) for source in (stored, embedded)]
    assert max(len(block.keys) for block in both[0]) == 3
    assert max(len(block.keys) for block in both[1]) == 5
    keys, cameras, features = (
        [np.concatenate([getattr(block, name) for block in blocks]) for blocks in both]
        for name in ("keys", "cameras", "features")
    )
    assert keys[0].tolist() == keys[1].tolist() == rows["key"].to_pylist()
    assert cameras[0].tolist() == cameras[1].tolist() == rows["camera"].to_pylist()
    np.testing.assert_allclose(features[0], features[1], rtol=1e-5, atol=1e-6)
    wanted = [keys[0][-1], keys[0][2]]
    for source in (stored, embedded):
        found = source.of(wanted)
        assert sorted(found) == sorted(wanted)
        np.testing.assert_allclose(found[wanted[0]], features[0][-1], rtol=1e-5, atol=1e-6)
        assert source.of([]) == {}


def test_a_key_that_is_not_there(path, dataset):
    with pytest.raises(UserError, match="no tracklet nobody among"):
        open_features(path, dataset_digest=dataset.digest, model_digest=None).of(["nobody"])


def test_other_data_and_other_weights_are_refused_naming_both(path, dataset):
    with pytest.raises(UserError, match=rf"dataset_digest is {dataset.digest}, expected other"):
        open_features(path, dataset_digest="other", model_digest=None)
    with pytest.raises(UserError, match=r"model_digest is \w+, expected other"):
        open_features(path, dataset_digest=dataset.digest, model_digest="other")


def test_files_that_are_not_features(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_features(tmp_path / "nowhere", dataset_digest="d", model_digest=None)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        open_features(tmp_path / "text", dataset_digest="d", model_digest=None)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match="found format None version None, expected 'taudl-features'"):
        open_features(tmp_path / "other", dataset_digest="d", model_digest=None)


def test_a_damaged_file_is_named(tmp_path, path, dataset):
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = bytes(196)
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged \(.*\); run `taudl embed` again"):
        list(open_features(tmp_path / "damaged", dataset_digest=dataset.digest, model_digest=None).blocks())
