"""The importer on a generated miniature copy of iLIDS-VID's layout."""

import shutil

import numpy as np
import pytest
from scipy.io import savemat

from data_tools.benchmarks.ilids_vid import import_benchmark
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UsageError, UserError

PEOPLE = (1, 2, 4, 9)  # the numbers of the benchmark have gaps


@pytest.fixture
def copy(tmp_path, draw):
    root = tmp_path / "i-LIDS-VID"
    for camera in (1, 2):
        for person in PEOPLE:
            folder = root / "sequences" / f"cam{camera}" / f"person{person:03d}"
            draw(
                folder, *(f"cam{camera}_person{person:03d}_{frame:05d}.png" for frame in (317, 318, 401)[: camera + 1])
            )
    (root / "sequences" / "Thumbs.db").write_text("")
    return root


def write_splits(copy, rows):
    folder = copy / "train-test people splits"
    folder.mkdir()
    savemat(folder / "train_test_splits_ilidsvid.mat", {"ls_set": np.array(rows, np.uint16)})


def imported(copy, out, **options):
    import_benchmark(copy, out, allow_mismatch=True, **options)
    return open_dataset(out)


def test_the_file_counts_sorted_folders_and_tests_on_its_first_half(copy, tmp_path, rows):
    write_splits(copy, [[1, 2, 3, 4]] * 3 + [[4, 1, 3, 2]] + [[1, 2, 3, 4]] * 6)
    dataset = imported(copy.parent, tmp_path / "out", split=3)
    assert rows(dataset, "query") == [("cam1", 1, 2), ("cam1", 9, 2)]
    assert rows(dataset, "gallery") == [("cam2", 1, 3), ("cam2", 9, 3)]
    assert rows(dataset, "train") == [("cam1", 2, 2), ("cam1", 4, 2), ("cam2", 2, 3), ("cam2", 4, 3)]
    assert dataset.info["source"]["test"] == [1, 9]


def test_splits_are_drawn_without_the_file(copy, tmp_path):
    dataset = imported(copy, tmp_path / "out", split=9, seed=4)
    assert dataset.info["settings"]["splits"] == "drawn with seed 4"
    assert sorted(dataset.info["source"]["train"] + dataset.info["source"]["test"]) == [*PEOPLE]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda copy: write_splits(copy, [[1, 2, 3, 5]] * 10),
            r"ls_set of shape \(10, 4\) does not divide the 4 people",
        ),
        (lambda copy: write_splits(copy, [[1, 2, 3, 4]] * 9), r"ls_set of shape \(9, 4\) does not divide"),
        (lambda copy: shutil.rmtree(copy / "sequences" / "cam2" / "person009"), "person 9 is in one camera only"),
        (lambda copy: shutil.rmtree(copy / "sequences" / "cam2"), "cam2: cannot be listed"),
        (
            lambda copy: (copy / "sequences/cam1/person001/cam1_person002_00319.png").write_text(""),
            "person002_00319.png: a frame of another person than its folder's",
        ),
        (
            lambda copy: (copy / "sequences/cam1/person001/cam2_person001_00317.png").write_text(""),
            "cam2_person001_00317.png: the name is not one of iLIDS-VID",
        ),
    ],
)
def test_a_damaged_copy_is_named(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        imported(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["i-LIDS-VID"]


def test_a_level_too_deep(copy, tmp_path):
    with pytest.raises(UsageError, match="too deep, found sequences in"):
        imported(copy / "sequences" / "cam1", tmp_path / "out")


def test_an_incomplete_copy_is_refused(copy, tmp_path):
    with pytest.raises(UserError, match=r"copy of iLIDS-VID .* images: found 20, expected 42459 or 42495"):
        import_benchmark(copy, tmp_path / "out")
