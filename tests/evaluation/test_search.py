"""`taudl search` as a user types it: by key, by image, with and without stored features; and its page."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from taudl_dist.cli import main
from taudl_dist.dataset import TrackletReader, read_manifest
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.evaluation.embedding import write_features
from tests.evaluation.test_report import Tags


@pytest.fixture
def searched(dataset, run, capsys):
    """Runs the command; the JSON object it prints, or the exit code and what stands on stderr."""

    def call(*words, model=True):
        argv = [
            "search",
            "--data",
            str(dataset.path),
            *(["--model", str(run)] if model else []),
            *map(str, words),
            "--json",
        ]
        code = main(argv)
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else (code, err)

    return call


@pytest.fixture
def rows(dataset):
    return read_manifest(dataset, splits=SPLITS).to_pylist()


@pytest.fixture
def photo(dataset, rows, tmp_path):
    """The first image of a tracklet of one image, as PNG."""
    row = next(row for row in rows if row["num_frames"] == 1)
    jpeg = TrackletReader(dataset).read(row["shard"], row["offset"], row["length"])[0]
    Image.open(io.BytesIO(jpeg)).save(tmp_path / "photo.png")
    return row, tmp_path / "photo.png"


def test_by_key(searched, rows, dataset):
    result = searched("--query", rows[0]["key"], "--top", 3)
    (query,) = result["queries"]
    assert (query["query"], query["camera"]) == (rows[0]["key"], rows[0]["camera"])
    assert [hit["rank"] for hit in query["hits"]] == [1, 2, 3]
    distances = [hit["distance"] for hit in query["hits"]]
    assert distances == sorted(distances)
    by_key = {row["key"]: row for row in rows}
    for hit in query["hits"]:
        assert hit["key"] != rows[0]["key"]
        assert {name: by_key[hit["key"]][name] for name in ("camera", "start_s", "num_frames")}.items() <= hit.items()
        assert "person_id" not in hit
    assert (result["num_gallery"], result["dataset_digest"]) == (len(rows), dataset.digest)


def test_other_cameras(searched, rows):
    result = searched("--query", rows[0]["key"], "--top", 99, "--other-cameras")
    found = {hit["key"] for hit in result["queries"][0]["hits"]}
    assert found == {row["key"] for row in rows if row["camera"] != rows[0]["camera"]}


def test_stored_features_give_the_same_without_the_model(searched, rows, dataset, run, tmp_path):
    file = tmp_path / "features.parquet"
    write_features(dataset.path, run, file)
    words = ("--query", rows[3]["key"], rows[0]["key"], "--top", 4)
    live, stored = searched(*words), searched(*words, "--features", file, model=False)
    for one, other in zip(live["queries"], stored["queries"], strict=True):
        assert [hit["distance"] for hit in one["hits"]] == pytest.approx(
            [hit["distance"] for hit in other["hits"]], abs=1e-4
        )
    assert live["model_digest"] == stored["model_digest"]
    for flag in (["--frames", 2], ["--flip"], ["--normalize"]):
        code, err = searched("--query", rows[0]["key"], "--features", file, *flag)
        assert code == 2 and f"{flag[0]}: the file of --features decides" in err


def test_by_image(searched, photo):
    row, path = photo
    (query,) = searched("--query", path, "--top", 1)["queries"]
    assert (query["camera"], query["hits"][0]["key"]) == (None, row["key"])
    assert query["hits"][0]["distance"] < 0.1  # it was encoded anew


def test_an_image_is_embedded_as_the_file_was(searched, photo, dataset, run, tmp_path):
    row, path = photo
    write_features(dataset.path, run, tmp_path / "file", flip=True, normalize=True)
    stored = searched("--query", path, "--top", 3, "--features", tmp_path / "file")
    live = searched("--query", path, "--top", 3, "--flip", "--normalize")
    assert stored["queries"][0]["hits"][0]["key"] == row["key"]
    assert (stored["flip"], stored["normalize"]) == (live["flip"], live["normalize"]) == (True, True)
    one, other = ([hit["distance"] for hit in result["queries"][0]["hits"]] for result in (stored, live))
    assert one == pytest.approx(other, abs=1e-4)
    assert one[0] < 0.1 and one[-1] <= 2


def test_an_image_that_lies_on_its_side(searched, photo):
    row, path = photo
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    (query,) = searched("--query", path, "--top", 1)["queries"]
    assert query["hits"][0]["key"] == row["key"]


WRONG = [
    (["--query", "nobody"], 1, "no tracklet of .* has this key, and there is no such file"),
    (["--query", "README"], 1, "not a readable image"),
    (["--query", "PHOTO", "--other-cameras"], 2, "is of no camera"),
    (["--query", "KEY", "--top", "0"], 2, "--top 0: expected at least 1"),
    (["--query", "KEY", "--frames", "-1"], 2, "--frames -1"),
    (["--query", "KEY", "--overwrite"], 2, "no meaning without --out"),
    (["--query"], 2, "names nothing|query"),
    (["--query", "KEY", "--out", "FOLDER"], 1, "found a folder"),
]


@pytest.mark.parametrize("case", WRONG, ids=[row[2] for row in WRONG])
def test_wrong_usage(case, searched, rows, photo, tmp_path):
    words, code, message = case
    (tmp_path / "README").write_text("text")
    places = {"KEY": rows[0]["key"], "PHOTO": photo[1], "README": tmp_path / "README", "FOLDER": tmp_path}
    found, err = searched(*[places.get(word, word) for word in words])
    assert found == code
    assert re.search(message, err)


def test_a_model_or_features_are_needed(searched, rows):
    code, err = searched("--query", rows[0]["key"], model=False)
    assert code == 2 and "neither --model nor --features" in err


def test_the_page_stands_alone_and_is_replaced_only_when_told(dataset, run, rows, photo, capsys):
    out = photo[1].parent / "new" / "result.html"
    words = [
        "search",
        "--data",
        dataset.path,
        "--model",
        run,
        "--query",
        rows[0]["key"],
        photo[1],
        "--top",
        2,
        "--out",
        out,
    ]
    argv = list(map(str, words))
    assert main(argv) == 0
    printed = capsys.readouterr().out
    page = out.read_text()
    parser = Tags()
    parser.feed(page)
    assert parser.stack == []
    assert not re.search(r"https?://", page)
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    heights = {Image.open(io.BytesIO(base64.b64decode(image))).height for image in images}
    assert heights == {128}
    assert f"<h2>{rows[0]['key']}</h2>" in page
    assert page.count("<figure>") == 2 * (1 + 2)
    assert printed.splitlines()[1].split() == [
        "rank",
        "distance",
        "camera",
        "from",
        "(s)",
        "to",
        "(s)",
        "images",
        "tracklet",
    ]
    assert main(argv) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    assert out.read_text() == page  # the same search gives the same page
    assert [path.name for path in Path(out.parent).iterdir()] == ["result.html"]
