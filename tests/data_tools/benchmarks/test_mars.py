"""The importer on a generated miniature copy of MARS; its draws also on the real tables where they are at hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data_tools.benchmarks.counts import MARS
from data_tools.benchmarks.mars import draw as draw_rows
from data_tools.benchmarks.mars import import_benchmark
from data_tools.benchmarks.mars_tables import CAMERA, PERSON, read_tables
from data_tools.validate import validate_dataset
from taudl_dist.dataset import open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "mars_info"

TRAIN = [(1, 1, 2), (1, 1, 3), (1, 2, 1), (3, 1, 1), (3, 2, 2), (3, 2, 2), (3, 2, 1), (5, 1, 4), (5, 1, 2)]
"""Person, camera, number of images of each tracklet; three people in camera 1, two of them more than once."""

TEST = [(-1, 1, 2), (0, 2, 1), (2, 1, 2), (2, 1, 1), (2, 3, 2), (4, 1, 1), (6, 2, 1), (6, 5, 1)]
QUERIES = [3, 5, 6, 8]  # rows from 1: person 2 in cameras 1 and 3, person 4, person 6


def table(tracklets) -> np.ndarray:
    ends = np.cumsum([length for _, _, length in tracklets])
    return np.array([[end - n + 1, end, p, c] for (p, c, n), end in zip(tracklets, ends)], np.int32)


def names(tracklets) -> list[str]:
    return [
        f"{'00-1' if person < 0 else f'{person:04d}'}C{camera}T{number:04d}F{frame:03d}.jpg"
        for number, (person, camera, length) in enumerate(tracklets, start=1)
        for frame in range(1, length + 1)
    ]


@pytest.fixture
def copy(tmp_path, draw):
    root = tmp_path / "MARS"
    for part, tracklets in (("train", TRAIN), ("test", TEST)):
        for person in {name[:4] for name in names(tracklets)}:
            draw(root / f"bbox_{part}" / person, *(name for name in names(tracklets) if name[:4] == person))
        write_info(root / "info", part, tracklets)
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([QUERIES], np.uint16)})
    return root


def write_info(info, part, tracklets):
    info.mkdir(exist_ok=True)
    savemat(info / f"tracks_{part}_info.mat", {f"track_{part}_info": table(tracklets)})
    (info / f"{part}_name.txt").write_text("\r\n".join(names(tracklets)) + "\r\n")


def imported(copy, out, **options):
    import_benchmark(copy, out, allow_mismatch=True, **options)
    return open_dataset(out)


def test_one_tracklet_of_each_person_and_camera(copy, tmp_path, rows):
    dataset = imported(copy.parent, tmp_path / "out", seed=1)
    training = rows(dataset, "train")
    assert [(camera, person) for camera, person, _ in training] == [
        ("cam1", 1), ("cam1", 3), ("cam1", 5), ("cam2", 1), ("cam2", 3),
    ]  # fmt: skip
    chosen = dataset.info["source"]["training rows"]  # from 1, in order of person and camera
    in_order = [training[place] for place in (0, 3, 1, 4, 2)]
    assert [(f"cam{c}", p, n) for p, c, n in (TRAIN[row - 1] for row in chosen)] == in_order
    assert dataset.info["settings"]["seed"] == 1


def test_the_gallery_without_queries_and_without_junk(copy, tmp_path, rows):
    dataset = imported(copy, tmp_path / "out")
    assert rows(dataset, "query") == [("cam1", 2, 2), ("cam1", 4, 1), ("cam3", 2, 2), ("cam5", 6, 1)]
    assert rows(dataset, "gallery") == [("cam1", 2, 1), ("cam2", 0, 1), ("cam2", 6, 1)]
    assert dataset.info["source"]["counts"]["valid queries"] == 2  # person 2 of camera 3, and person 6


def test_the_gallery_with_queries_and_junk(copy, tmp_path, rows):
    dataset = imported(copy, tmp_path / "out", gallery="with-queries")
    assert rows(dataset, "query") == [("cam1", 2, 2), ("cam1", 4, 1), ("cam3", 2, 2), ("cam5", 6, 1)]
    assert rows(dataset, "gallery") == sorted((f"cam{camera}", person, length) for person, camera, length in TEST)
    assert dataset.info["source"]["counts"]["valid queries"] == 3
    probes = read_manifest(dataset, splits=("query", "gallery"))
    assert len(set(probes["key"].to_pylist())) == len(TEST)  # a tracklet that is both is stored once
    assert validate_dataset(tmp_path / "out").problems == []


def test_duplicates_have_labels_of_their_own(copy, tmp_path):
    dataset = imported(copy, tmp_path / "out", duplication=0.5)
    training = read_manifest(dataset, splits=("train",)).to_pydict()
    assert Counter(training["camera"]) == {"cam1": 5, "cam2": 3}  # half of 3 is rounded to 2, half of 2 is 1
    assert [(c, n) for c, n in zip(training["camera"], training["label"])] == [
        *(("cam1", label) for label in range(5)), *(("cam2", label) for label in range(3)),
    ]  # fmt: skip
    assert len(set(dataset.info["source"]["training rows"])) == 8
    assert dataset.info["settings"]["duplication"] == 0.5


def test_draws():
    """Every tracklet may be drawn, none twice; who has two at a small share has the same two at a larger one."""
    train, people = table(TRAIN), {1, 3, 5}
    first = Counter(tuple(draw_rows(train, people, seed=seed)) for seed in range(200))
    assert len(first) == 2 * 2 * 3 and min(first.values()) > 3
    for seed in range(50):
        few, some, many = (set(draw_rows(train, people, seed=seed, duplication=d)) for d in (0, 0.34, 0.5))
        assert few < some <= many and (len(few), len(some), len(many)) == (5, 7, 8)
    assert all(TRAIN[row][0] == 3 for row in draw_rows(train, {3}, seed=0))


def test_first_identities(copy, tmp_path, rows):
    dataset = imported(copy, tmp_path / "out", identities=1)
    assert [person for _, person, _ in rows(dataset, "train")] == [1, 1]
    assert len(rows(dataset, "query")) == 4


def test_too_few_to_duplicate():
    with pytest.raises(UserError, match="camera 1 has 2 identities, and 0 of them more than one tracklet, where 1 are"):
        draw_rows(table([(1, 1, 2), (2, 1, 2)]), {1, 2}, seed=0, duplication=0.5)


@pytest.mark.parametrize("share", [-0.1, 0.6, 10, float("nan")])
def test_a_share_that_is_none(copy, tmp_path, share):
    with pytest.raises(UsageError, match=r"--duplication .*: expected a share of the identities from 0 to 0.5"):
        imported(copy, tmp_path / "out", duplication=share)


def rename_line(copy):
    path = copy / "info" / "train_name.txt"
    path.write_text(path.read_text().replace("0001C2", "0001C3"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda copy: (copy / "info").rename(copy / "Info"), "info: no such folder; it comes apart from the images"),
        (lambda copy: (copy / "info" / "query_IDX.mat").unlink(), "query_IDX.mat: cannot be read"),
        (
            lambda copy: savemat(copy / "info" / "query_IDX.mat", {"query_IDX": [[1, 9]]}),
            "expected different rows 1 to 8 of the test table",
        ),
        (
            lambda copy: savemat(copy / "info" / "tracks_train_info.mat", {"track_train_info": table(TRAIN)[1:]}),
            r"track_train_info of shape \(8, 4\) is no table of tracklets",
        ),
        (lambda copy: (copy / "info" / "test_name.txt").unlink(), "test_name.txt: cannot be read"),
        (lambda copy: (copy / "info" / "test_name.txt").write_text("x\n"), "1 names, and its table counts 11"),
        (lambda copy: (copy / "info" / "test_name.txt").write_text("x\n" * 11), "line 1: 'x' is not a name of MARS"),
        (rename_line, "line 6: 0001C3T0003F001.jpg, but its table says identity 1, camera 2"),
        (
            lambda copy: (copy / "bbox_test/00-1").rename(copy / "bbox_test/-1"),
            None,
        ),
        (
            lambda copy: (copy / "bbox_test/0002/0002C3T0005F002.jpg").unlink(),
            r"0002C3T0005F002.jpg: no such image \(1 of 2 of its tracklet are missing\)",
        ),
        (lambda copy: (copy / "bbox_test/0002/0002C3T0005F002.jpg").write_bytes(b"x"), "not a readable JPEG"),
        (
            lambda copy: (copy / "bbox_train").rename(copy / "BBOX_train"),
            "but BBOX_train, which is to be named bbox_train",
        ),
    ],
)
def test_a_damaged_copy_is_named(copy, tmp_path, damage, message):
    damage(copy)
    if message is None:  # junk is not used
        imported(copy, tmp_path / "out")
        return
    with pytest.raises(UserError, match=message):
        imported(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["MARS"]


def test_an_incomplete_copy_is_refused(copy, tmp_path):
    with pytest.raises(UserError, match=r"copy of MARS .* valid queries: found 2, expected 1840"):
        import_benchmark(copy, tmp_path / "out")


@pytest.mark.skipif(
    not REAL.is_dir(),
    reason="the authors' tables may not be shipped with the project; tables of the same form, made here, are tested above",
)
class TestRealTables:
    @pytest.mark.parametrize("duplication", [0.0, 0.1, 0.2, 0.3, 0.5])
    def test_draws(self, duplication):
        train, _, _ = read_tables(REAL)
        rows = draw_rows(train, set(train[:, PERSON].tolist()), seed=0, duplication=duplication)
        assert len(set(rows)) == len(rows)
        per_pair = Counter(map(tuple, train[rows][:, [PERSON, CAMERA]].tolist()))
        assert len(per_pair) == 1955 and max(per_pair.values()) <= 2
        for camera, people in enumerate(MARS["train identities per camera"], start=1):
            twice = sum(number == 2 for (_, at), number in per_pair.items() if at == camera)
            assert twice == round(duplication * people)

    def test_another_seed_draws_others(self):
        train, _, _ = read_tables(REAL)
        people = set(train[:, PERSON].tolist())
        drawn = [set(draw_rows(train, people, seed=seed)) for seed in range(2)]
        expected = sum(1 / number for number in Counter(map(tuple, train[:, [PERSON, CAMERA]].tolist())).values())
        assert abs(len(drawn[0] & drawn[1]) - expected) < 5 * 22  # 838; 22 is above the standard deviation
