"""Finding a copy of a benchmark, and saying what is wrong with the folder given."""

import re

import pytest

from data_tools.benchmarks.folders import image_files, inside, parsed
from taudl_dist.errors import UsageError, UserError


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "copies" / "Set-v1" / "train").mkdir(parents=True)
    return tmp_path / "copies" / "Set-v1"


def test_the_folder_itself_or_its_parent(copy):
    assert inside(copy, "Set-v1", holding="train") == copy
    assert inside(copy.parent, "set", "Set-v1", holding="train") == copy


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("train", "too deep, found train in .*Set-v1; give that folder"),
        ("..", r"found no train there nor in .*Set-v1; give the folder that holds train"),
        ("../Set-v2", "no such folder"),
        ("loop", "no such folder"),
        ("file", "no such folder"),
        ("shouting", "found no train there .*but TRAIN, which is to be named train"),
    ],
)
def test_another_level_is_named(copy, place, message):
    (copy / "loop").symlink_to(copy / "loop")
    (copy / "file").write_text("")
    (copy.parent / "shouting" / "TRAIN").mkdir(parents=True)
    root = copy.parent / "shouting" if place == "shouting" else copy.parent.parent if place == ".." else copy / place
    with pytest.raises(UsageError, match=message):
        inside(root, "Set-v1", holding="train")


def test_images_are_files_of_a_known_ending_in_order(copy):
    for name in ("b.jpg", "a.JPG", "c.png", "Thumbs.db", ".DS_Store"):
        (copy / name).write_text("")
    assert [path.name for path in image_files(copy)] == ["a.JPG", "b.jpg", "c.png"]


def test_a_folder_that_cannot_be_listed(copy):
    (copy / "loop").symlink_to(copy / "loop")
    with pytest.raises(UserError, match="loop: no such folder"):
        image_files(copy / "loop")
    with pytest.raises(UserError, match=r"Train: no such folder \(but train, which is to be named Train\)"):
        image_files(copy / "Train")
    with pytest.raises(UserError, match="query/train: no such folder"):
        image_files(copy / "query" / "train")


def test_a_name_of_another_benchmark(copy):
    pattern = re.compile(r"(\d+)\.jpg")
    assert [match[1] for match in parsed([copy / "12.jpg"], pattern, benchmark="Set", example="1.jpg")] == ["12"]
    with pytest.raises(UserError, match=r"x\.jpg: the name is not one of Set, such as 1\.jpg"):
        list(parsed([copy / "x.jpg"], pattern, benchmark="Set", example="1.jpg"))
