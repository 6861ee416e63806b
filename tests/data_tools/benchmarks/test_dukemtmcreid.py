"""The importer on a generated miniature copy of DukeMTMC-reID's layout."""

import pytest

from data_tools.benchmarks.dukemtmcreid import import_benchmark
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UserError


@pytest.fixture
def copy(tmp_path, draw):
    root = tmp_path / "DukeMTMC-reID"
    draw(root / "bounding_box_train", "0001_c2_f0046182.jpg", "0001_c2_f0046302.jpg", "0001_c8_f0000001.jpg",
         "0009_c2_f0000002.jpg")  # fmt: skip
    draw(root / "query", "0005_c1_f0000100.jpg")
    draw(root / "bounding_box_test", "0005_c3_f0000200.jpg", "0005_c1_f0000101.jpg", "7000_c1_f0000300.jpg")
    return root


def test_tracklets_and_warning(copy, tmp_path, rows, capsys):
    import_benchmark(copy.parent, tmp_path / "out", allow_mismatch=True)
    dataset = open_dataset(tmp_path / "out")
    assert rows(dataset, "train") == [("cam2", 1, 2), ("cam2", 9, 1), ("cam8", 1, 1)]
    assert rows(dataset, "query") == [("cam1", 5, 1)]
    assert rows(dataset, "gallery") == [("cam1", 5, 1), ("cam1", 7000, 1), ("cam3", 5, 1)]
    counts = dataset.info["source"]["counts"]
    assert counts["train tracklets per camera"] == [0, 2, 0, 0, 0, 0, 0, 1] and counts["test identities"] == 2
    assert "withdrawn by its authors in 2019" in capsys.readouterr().err
    assert "withdrawn" in dataset.info["source"]["note"]


def test_an_incomplete_copy_is_refused(copy, tmp_path):
    with pytest.raises(UserError, match=r"copy of DukeMTMC-reID is not .* test images: found 3, expected 17661"):
        import_benchmark(copy, tmp_path / "out")


def test_names_of_market1501_are_refused(copy, tmp_path, draw):
    draw(copy / "query", "0002_c1s1_000451_03.jpg")
    with pytest.raises(UserError, match=r"000451_03\.jpg: the name is not one of DukeMTMC-reID"):
        import_benchmark(copy, tmp_path / "out", allow_mismatch=True)
