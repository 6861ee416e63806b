"""The importer on generated miniature copies of Market-1501's layout."""

import pytest

from data_tools.benchmarks.market1501 import import_benchmark
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UserError

TRAIN = {
    "bounding_box_train": ["0002_c1s1_000451_03", "0002_c1s2_000001_01", "0002_c3s1_000100_00", "0007_c1s1_000200_00",
                           "0011_c3s1_000300_00"],
    "query": ["0001_c1s1_001051_00", "0001_c3s1_000151_00"],
    "bounding_box_test": ["0001_c3s1_000151_00", "0001_c1s1_002000_01", "0000_c1s1_000001_00", "-1_c3s1_000401_03",
                          "0005_c2s1_000401_03"],
}  # fmt: skip


@pytest.fixture
def copy(tmp_path, draw):
    root = tmp_path / "Market-1501-v15.09.15"
    for folder, names in TRAIN.items():
        draw(root / folder, *(f"{name}.jpg" for name in names))
    return root


def imported(copy, tmp_path, **options):
    out = tmp_path / "dataset"
    import_benchmark(copy, out, allow_mismatch=True, **options)
    return open_dataset(out)


def test_training_tracklets_are_one_per_identity_and_camera(copy, tmp_path):
    dataset = imported(copy, tmp_path)
    assert dataset.cameras == ["cam1", "cam2", "cam3"]
    assert dataset.training.camera_offsets.tolist() == [0, 2, 2, 4]  # camera 2 is seen in testing only
    train = read_manifest(dataset, splits=("train",)).to_pydict()
    assert list(zip(train["camera"], train["label"], train["person_id"], train["num_frames"])) == [
        ("cam1", 0, 2, 2), ("cam1", 1, 7, 1), ("cam3", 0, 2, 1), ("cam3", 1, 11, 1),
    ]  # fmt: skip
    images = TrackletReader(dataset).read(train["shard"][0], train["offset"][0], train["length"][0])
    names = ["0002_c1s1_000451_03.jpg", "0002_c1s2_000001_01.jpg"]
    assert images == [(copy / "bounding_box_train" / name).read_bytes() for name in names]


def test_probes_are_single_images_without_junk(copy, tmp_path):
    dataset = imported(copy, tmp_path)
    probes = read_manifest(dataset).to_pydict()
    assert sorted(zip(probes["split"], probes["camera"], probes["person_id"])) == [
        ("gallery", "cam1", 0), ("gallery", "cam1", 1), ("gallery", "cam2", 5), ("gallery", "cam3", 1),
        ("query", "cam1", 1), ("query", "cam3", 1),
    ]  # fmt: skip
    assert set(probes["num_frames"]) == {1}
    assert dataset.info["source"]["counts"]["test images of junk (-1)"] == 1


def test_first_identities_only(copy, tmp_path):
    dataset = imported(copy, tmp_path, identities=2)
    assert read_manifest(dataset, splits=("train",))["person_id"].to_pylist() == [2, 7, 2]
    assert dataset.info["settings"]["identities"] == 2
    assert dataset.info["source"]["counts"]["train identities"] == 3  # what the copy has
    with pytest.raises(UserError, match="has 3 training identities"):
        imported(copy, tmp_path, identities=4)


def test_an_incomplete_copy_is_refused_by_name(copy, tmp_path):
    with pytest.raises(UserError, match=r"train images: found 5, expected 12936.*--allow-mismatch"):
        import_benchmark(copy, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_names_that_end_twice_are_taken(copy, tmp_path):
    path = copy / "query" / "0001_c1s1_001051_00.jpg"
    path.rename(path.with_name(f"{path.name}.jpg"))
    assert imported(copy, tmp_path).info["splits"]["query"]["tracklets"] == 2


def twice(path):
    path.with_suffix(".jpg.jpg").write_bytes(path.read_bytes())


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda copy: (copy / "query" / "person.jpg").write_bytes(b""),
            "person.jpg: the name is not one of Market-1501",
        ),
        (lambda copy: (copy / "query").rename(copy / "queries"), "query: no such folder"),
        (
            lambda copy: (copy / "query").rename(copy / "Query"),
            r"query: no such folder \(but Query, which is to be named",
        ),
        (lambda copy: (copy / "bounding_box_train").rename(copy / "train"), "found no bounding_box_train there"),
        (lambda copy: twice(copy / "query" / "0001_c1s1_001051_00.jpg"), "image 0001_c1s1_001051_00 is there 2 times"),
        (lambda copy: cut(copy / "query" / "0001_c1s1_001051_00.jpg"), "not a readable JPEG"),
    ],
)
def test_a_damaged_copy_is_named(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        imported(copy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]
