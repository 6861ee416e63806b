"""Feature files: their columns, their origin, and that nothing is overwritten."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from taudl_dist.dataset import read_manifest
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.embedding import write_features
from taudl_dist.evaluation.evaluate import model_digest
from taudl_dist.evaluation.features import embed
from taudl_dist.model import load_model


@pytest.mark.parametrize(("split", "count"), [("all", 18), ("train", 8), ("query", 5), ("gallery", 5)])
def test_features_of_a_split(dataset, run, tmp_path, split, count):
    out = tmp_path / "new" / "features.parquet"
    written = write_features(dataset.path, run, out, split=split)
    table = pq.read_table(out)
    assert table.column_names == ["key", "camera", "split", "feature"]
    rows = read_manifest(dataset, splits=("train", "query", "gallery") if split == "all" else (split,))
    assert table["key"].to_pylist() == rows["key"].to_pylist()
    assert len(table) == written["num_tracklets"] == count
    features = np.stack(table["feature"].to_numpy())
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, embed(load_model(run), dataset, rows), atol=1e-6)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["dataset_digest"] == dataset.digest
    assert metadata["model_digest"] == model_digest(run)
    assert (metadata["format"], metadata["version"], metadata["frames"]) == ("taudl-features", "1", "0")


def test_an_existing_file_is_kept(dataset, run, tmp_path):
    out = tmp_path / "features.parquet"
    out.write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        write_features(dataset.path, run, out)
    assert out.read_text() == "precious"
    write_features(dataset.path, run, out, overwrite=True)
    assert len(pq.read_table(out)) == 18
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_interrupted_write_leaves_nothing(dataset, run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_features(dataset.path, run, tmp_path / "features.parquet")
    assert not list(tmp_path.iterdir())


def test_a_folder_and_a_negative_number_of_frames(dataset, run, tmp_path):
    with pytest.raises(UserError, match=r"exists; choose another name$"):
        write_features(dataset.path, run, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="--frames -1"):
        write_features(dataset.path, run, tmp_path / "features.parquet", frames=-1)
