"""The importer on a generated miniature copy of PRID 2011's layout."""

import json
import shutil

import pytest

from data_tools.benchmarks.prid2011 import import_benchmark
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UsageError, UserError

PEOPLE = (1, 2, 3, 4)


@pytest.fixture
def copy(tmp_path, draw):
    """People 1 to 4 are seen by both cameras; 6 is one of those that no split uses; 5 and 201 have one sequence or are two."""
    root = tmp_path / "prid2011" / "prid_2011"
    for camera, people in (("cam_a", (*PEOPLE, 5, 6, 201)), ("cam_b", (*PEOPLE, 6, 201))):
        for person in people:
            frames = 1 + person % 3 + (camera == "cam_b")
            draw(root / "multi_shot" / camera / f"person_{person:04d}", *(f"{n:04d}.png" for n in range(1, frames + 1)))
    return root


def write_splits(copy, *splits):
    names = [
        {part: [f"person_{person:04d}" for person in people] for part, people in split.items()} for split in splits
    ]
    (copy.parent / "splits_prid2011.json").write_text(json.dumps(names))


def imported(copy, out, **options):
    import_benchmark(copy, out, allow_mismatch=True, **options)
    return open_dataset(out)


def test_the_split_of_the_file(copy, tmp_path, rows):
    write_splits(copy, {"train": [1, 2], "test": [3, 4]}, {"train": [4, 2], "test": [1, 3]})
    dataset = imported(copy.parent, tmp_path / "out", split=1)
    assert rows(dataset, "train") == [("cam_a", 2, 3), ("cam_a", 4, 2), ("cam_b", 2, 4), ("cam_b", 4, 3)]
    assert rows(dataset, "query") == [("cam_a", 1, 2), ("cam_a", 3, 1)]
    assert rows(dataset, "gallery") == [("cam_b", 1, 3), ("cam_b", 3, 2)]
    assert dataset.info["settings"]["splits"] == "splits_prid2011.json" and dataset.info["settings"]["split"] == 1
    assert (dataset.info["source"]["train"], dataset.info["source"]["test"]) == ([2, 4], [1, 3])
    assert "quality 95" in dataset.info["encoder"]["jpeg"]
    assert dataset.info["source"]["counts"] == {
        "identities": 4, "tracklets": 8, "images": 20, "shortest tracklet": 1, "longest tracklet": 4,
        "train identities": 2, "test identities": 2,
    }  # fmt: skip


def test_splits_are_drawn_without_the_file(copy, tmp_path):
    def halves(name, **options):
        source = imported(copy, tmp_path / name, **options).info["source"]
        return tuple(source["train"]), tuple(source["test"])

    drawn = {halves(f"{split} {seed}", split=split, seed=seed) for split in range(5) for seed in (None, 1)}
    assert all(sorted(train + test) == [*PEOPLE] and len(train) == 2 for train, test in drawn)
    assert len(drawn) > 2
    assert halves("default") == halves("again", split=0, seed=0)


def test_first_identities_of_the_training_half(copy, tmp_path, rows):
    write_splits(copy, {"train": [2, 4], "test": [1, 3]})
    dataset = imported(copy, tmp_path / "out", identities=1)
    assert [person for _, person, _ in rows(dataset, "train")] == [2, 2]
    assert len(rows(dataset, "query")) == 2


def twice(folder):
    shutil.copytree(folder, folder.with_name(folder.name.title()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda copy: write_splits(copy, {"train": [1], "test": [9]}), "split 0 names person 9, who is not among the 4"),
        (lambda copy: write_splits(copy, {"train": [1, 2], "test": [2]}), "has person 2 in both halves"),
        (write_splits, "split 0 cannot be read"),
        (lambda copy: write_splits(copy, {"train": [1]}), "split 0 cannot be read .KeyError: 'test'"),
        (lambda copy: (copy / "splits_prid2011.json").write_text("{"), "splits_prid2011.json: split 0 cannot be read"),
        (lambda copy: (copy / "splits_prid2011.json").write_text('[{"train": [1], "test": []}]'), "cannot be read"),
        (lambda copy: (copy / "multi_shot" / "cam_b").rename(copy / "cam_b"), "cam_b: cannot be listed"),
        (lambda copy: (copy / "multi_shot").rename(copy / "single_shot"), "found no multi_shot there"),
        (lambda copy: (copy / "multi_shot" / "cam_a" / "person_0007").mkdir(), "person_0007: holds no images"),
        (lambda copy: twice(copy / "multi_shot" / "cam_a" / "person_0001"), "a second folder for a person of PRID2011"),
        (lambda copy: (copy / "multi_shot" / "cam_a" / "extra").mkdir(), "extra: the name is not one of PRID2011, such as person_0001/0001.png"),
        (lambda copy: (copy / "multi_shot/cam_a/person_0001/1.png").write_text(""), "1.png: the name is not one of PRID"),
        (lambda copy: (copy / "multi_shot/cam_a/person_0001/0001.png").write_text("x"), "0001.png: not a readable PNG"),
    ],
)  # fmt: skip
def test_a_damaged_copy_is_named(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        imported(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["prid2011"]


def test_wrong_usage(copy, tmp_path):
    with pytest.raises(UsageError, match="--split 10: expected one of 0 to 9"):
        imported(copy, tmp_path / "out", split=10)
    write_splits(copy, {"train": [1, 2], "test": [3, 4]})
    with pytest.raises(UsageError, match="--seed 0: has no effect, the splits are those of"):
        imported(copy, tmp_path / "out", seed=0)


def test_an_incomplete_copy_is_refused(copy, tmp_path):
    with pytest.raises(UserError, match=r"copy of PRID2011 .* identities: found 4, expected 178"):
        import_benchmark(copy, tmp_path / "out")
