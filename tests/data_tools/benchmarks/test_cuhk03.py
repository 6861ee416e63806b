"""The importer on generated miniature copies of both layouts of CUHK03: its release as a MATLAB 7.3 file, and CUHK03-NP."""

import io

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data_tools.benchmarks.cuhk03 import import_benchmark
from data_tools.benchmarks.cuhk03_release import Release
from data_tools.validate import validate_dataset
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError

SIZE = (16, 8)  # height, width
PEOPLE = (3, 2, 0, 1, 0)
"""Number of people of each pair of cameras."""

HELD = {(1, 1): (1, 2, 6, 7, 8), (1, 2): (1, 6), (1, 3): (5, 10), (2, 1): (1, 2, 3, 6), (2, 2): (2, 9), (4, 1): (1, 2)}
"""(pair, person) -> the images there are, 1 to 10; the last person is seen in view 1 only."""


def pixels(pair: int, person: int, number: int) -> np.ndarray:
    """A picture whose top, bottom and left differ, so that a wrong axis shows."""
    image = np.full((*SIZE, 3), 20 * number, np.uint8)
    image[:4] = (250, 40 * pair, 60 * person)
    image[:, :2] = (0, 200, 0)
    return image


def name(pair: int, person: int, number: int) -> str:
    return f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"


def write_release(path):
    """What MATLAB 7.3 writes: cells are references, arrays have their axes turned, an empty cell holds its sizes."""
    with h5py.File(path, "w") as file:
        held = file.create_group("#refs#")

        def store(value):
            return held.create_dataset(str(len(held)), data=value).ref

        def cells(references):
            array = np.empty(np.shape(references), h5py.ref_dtype)
            array[...] = references
            return array

        for boxes in ("detected", "labeled"):
            pairs = []
            for pair, people in enumerate(PEOPLE, start=1):
                rows = np.empty((10, people), h5py.ref_dtype)
                for person in range(1, people + 1):
                    for number in range(1, 11):
                        is_held = number in HELD[pair, person] and not (boxes == "labeled" and (pair, number) == (1, 8))
                        value = pixels(pair, person, number).T if is_held else np.zeros(2, np.uint64)
                        rows[number - 1, person - 1] = store(value)
                pairs.append(store(rows) if people else store(np.empty((10, 0), h5py.ref_dtype)))
            file[boxes] = cells([pairs])
        tests = [np.array([[1, 2], [2, 1]], float), np.array([[1, 1], [4, 1]], float)]  # rows are (pair, person)
        file["testsets"] = cells([[store(test.T) for test in tests]])


LISTS = {"train": [(1, 1), (2, 2)], "query": [(1, 2)], "gallery": [(1, 2), (2, 1)]}
"""The miniature new protocol, by person; queries are first images and the gallery the others."""


def write_lists(folder, **changes):
    files = [(name(*who, number), label) for label, who in enumerate(HELD, start=1) for number in HELD[who]]
    places = {file: place for place, (file, _) in enumerate(files, start=1)}
    train = [places[name(*who, number)] for who in LISTS["train"] for number in HELD[who]]
    query = [places[name(1, 2, 1)], places[name(2, 1, 6)]]
    gallery = [places[name(*who, number)] for who in LISTS["gallery"] for number in HELD[who]]
    gallery = [place for place in gallery if place not in query]
    content = {
        "filelist": np.array([[file] for file, _ in files], object),
        "labels": np.array([[label] for _, label in files], float),
        "train_idx": np.array([train], float),
        "query_idx": np.array([query], float),
        "gallery_idx": np.array([gallery], float),
    }
    savemat(folder / "cuhk03_new_protocol_config_detected.mat", content | changes)


@pytest.fixture(scope="module")
def release_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "cuhk-03.mat"
    write_release(path)
    return path


@pytest.fixture
def release(tmp_path, release_file):
    folder = tmp_path / "cuhk03" / "cuhk03_release"
    folder.mkdir(parents=True)
    (folder / "cuhk-03.mat").write_bytes(release_file.read_bytes())
    write_lists(folder.parent)
    return folder


@pytest.fixture
def folders(tmp_path, draw):
    root = tmp_path / "CUHK03-NP"
    draw(root / "detected" / "bounding_box_train", "0003_c1_1.png", "0003_c1_2.png", "0003_c2_6.png", "0004_c2_7.png")
    draw(root / "detected" / "query", "0001_c1_3.png")
    draw(root / "detected" / "bounding_box_test", "0001_c2_8.png", "0001_c1_4.png")
    return root


def imported(copy, out, **options):
    import_benchmark(copy, out, allow_mismatch=True, **options)
    return open_dataset(out)


def test_new_protocol_from_folders(folders, tmp_path, rows):
    dataset = imported(folders.parent, tmp_path / "out")
    assert rows(dataset, "train") == [("cam1", 3, 2), ("cam2", 3, 1), ("cam2", 4, 1)]
    assert rows(dataset, "query") == [("cam1", 1, 1)]
    assert rows(dataset, "gallery") == [("cam1", 1, 1), ("cam2", 1, 1)]
    assert (
        dataset.info["settings"]["boxes"] == "detected" and dataset.info["source"]["read from"] == "CUHK03-NP/detected"
    )
    assert "quality 95" in dataset.info["encoder"]["jpeg"]


def test_new_protocol_from_the_release(release, tmp_path, rows):
    dataset = imported(release.parent, tmp_path / "out")
    assert rows(dataset, "train") == [("cam1", 1, 2), ("cam1", 5, 1), ("cam2", 1, 3), ("cam2", 5, 1)]
    assert rows(dataset, "query") == [("cam1", 2, 1), ("cam2", 4, 1)]
    assert rows(dataset, "gallery") == [("cam1", 4, 1), ("cam1", 4, 1), ("cam1", 4, 1), ("cam2", 2, 1)]
    assert dataset.info["source"]["counts"]["train tracklets per camera"] == [2, 2]


def test_images_of_the_release_are_upright(release, tmp_path):
    dataset = imported(release, tmp_path / "out")
    row = read_manifest(dataset, splits=("train",)).to_pylist()[0]
    jpeg, _ = TrackletReader(dataset).read(row["shard"], row["offset"], row["length"])
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert (picture.height, picture.width) == SIZE
        difference = np.asarray(picture, int) - pixels(1, 1, 1)
    assert np.abs(difference).max() < 40


def test_classic_protocol(release, tmp_path, rows):
    dataset = imported(release, tmp_path / "out", protocol="classic", split=1)
    assert {person for _, person, _ in rows(dataset, "train")} == {2, 3, 4, 5}
    assert rows(dataset, "query") == rows(dataset, "gallery")
    assert rows(dataset, "query") == [("cam1", 1, 1)] * 2 + [("cam1", 6, 1)] * 2 + [("cam2", 1, 1)] * 3
    assert dataset.info["source"]["counts"] == {"images": 17, "train identities": 4, "test identities": 2}
    assert dataset.info["settings"]["protocol"] == "classic" and dataset.info["settings"]["split"] == 1
    assert validate_dataset(tmp_path / "out").problems == []


def test_boxes_of_the_release(release):
    with (
        Release(release / "cuhk-03.mat", "detected") as detected,
        Release(release / "cuhk-03.mat", "labeled") as labelled,
    ):
        assert detected.names == [name(*who, number) for who, numbers in HELD.items() for number in numbers]
        assert set(detected.names) - set(labelled.names) == {name(1, 1, 8)}


def test_first_identities(release, tmp_path, rows):
    dataset = imported(release, tmp_path / "out", identities=1)
    assert {person for _, person, _ in rows(dataset, "train")} == {1}


@pytest.mark.parametrize(
    "options", [{"split": 0}, {"split": 20, "protocol": "classic"}, {"split": -1, "protocol": "classic"}]
)
def test_splits_that_do_not_exist(release, tmp_path, options):
    with pytest.raises(
        UsageError, match=f"--split {options['split']}: expected one of 0 to 19, and --protocol classic"
    ):
        imported(release, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda copy: (copy / "cuhk-03.mat").write_bytes(b"MATLAB"), "cuhk-03.mat: not a readable cuhk-03.mat"),
        (lambda copy: cut(copy / "cuhk-03.mat"), "cuhk-03.mat: not a readable cuhk-03.mat"),
        (lambda copy: rewrite(copy / "cuhk-03.mat", other=1), "not a readable cuhk-03.mat .*detected"),
        (lambda copy: rewrite(copy / "cuhk-03.mat", detected=[[1, 2]]), "not a readable cuhk-03.mat"),
        (
            lambda copy: (copy.parent / "cuhk03_new_protocol_config_detected.mat").unlink(),
            "no such file; the lists of the new protocol come apart from",
        ),
        (lambda copy: write_lists(copy, query_idx=[[99]]), "not the lists of the new protocol"),
        (
            lambda copy: write_lists(copy, filelist=np.array([["9_001_1_01.png"]] * 17, object)),
            "holds no detected image 9_0",
        ),
        (lambda copy: write_lists(copy, filelist=np.zeros((17, 2))), "not the lists|holds no detected image"),
    ],
)
def test_a_damaged_release_is_named(release, tmp_path, damage, message):
    damage(release)
    with pytest.raises(UserError, match=message):
        imported(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, **content):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": "labelled"}, "found no labeled/bounding_box_train there"),
        ({"protocol": "classic"}, "found no cuhk-03.mat there"),
    ],
)
def test_what_the_folders_do_not_hold(folders, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        imported(folders, tmp_path / "out", **options)


def test_a_level_too_deep(folders, tmp_path):
    with pytest.raises(
        UsageError, match=r"too deep, found detected/bounding_box_train in \S+CUHK03-NP; give that folder"
    ):
        imported(folders / "detected", tmp_path / "out")


def test_an_incomplete_copy_is_refused(release, tmp_path):
    with pytest.raises(UserError, match=r"copy of CUHK03 \(detected, new\) .* train images: found 7, expected 7365"):
        import_benchmark(release, tmp_path / "out")
    with pytest.raises(UserError, match=r"\(labelled, classic\) .* images: found 16, expected 14096"):
        import_benchmark(release, tmp_path / "out", boxes="labelled", protocol="classic")
