"""Every format gives the same table; every kind of damage is named with file, place, value and expectation."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv, parquet

from data_tools.tracks import FORMATS, TRACKS_SCHEMA, read_tracks, rows_by_camera, write_mot
from taudl_dist.errors import UsageError, UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "mot15" / "TUD-Campus"
WIDTH, HEIGHT, FPS = 640, 480, 10.0

# track, frame (from 0), x1, y1, x2, y2 (pixels from 0), score; -1 is a detection without a track
DETECTIONS = [
    (3, 0, 10.0, 20.0, 50.0, 120.0, 0.5),
    (7, 0, 300.0, 100.0, 340.0, 200.0, 0.75),
    (-1, 0, 5.0, 5.0, 25.0, 65.0, 0.25),
    (-1, 0, 6.0, 5.0, 26.0, 65.0, 0.25),
    (3, 1, 12.0, 20.0, 52.0, 120.0, 0.5),
    (3, 12, -8.0, 20.0, 32.0, 500.0, 1.0),  # leaves the picture: legal, cut later
]


def expected(camera: str) -> pa.Table:
    track, frame, *rest = zip(*DETECTIONS)
    frame = np.array(frame)
    columns = [[camera] * len(track), track, frame, frame / FPS, *rest]
    return pa.table([pa.array(c, kind) for c, kind in zip(columns, TRACKS_SCHEMA.types)], schema=TRACKS_SCHEMA)


def write_mot_lines(path: Path, delimiter: str = ",") -> Path:
    rows = [(f + 1, t, x1 + 1, y1 + 1, x2 - x1, y2 - y1, s, -1, -1, -1) for t, f, x1, y1, x2, y2, s in DETECTIONS]
    path.write_text("".join(delimiter.join(f"{value:g}" for value in row) + "\n" for row in rows))
    return path


def write_supervision(path: Path) -> Path:
    lines = ["x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,frame_index"]
    lines += [f"{x1},{y1},{x2},{y2},0,{s},{'' if t < 0 else t},{f}" for t, f, x1, y1, x2, y2, s in DETECTIONS]
    path.write_text("\n".join(lines))
    return path


def write_ultralytics(path: Path) -> Path:
    path.mkdir()
    for t, f, x1, y1, x2, y2, s in DETECTIONS:
        centre = f"{(x1 + x2) / 2 / WIDTH:.9f} {(y1 + y2) / 2 / HEIGHT:.9f}"
        with (path / f"cam_{f + 1:03d}.txt").open("a") as file:
            file.write(f"0 {centre} {(x2 - x1) / WIDTH:.9f} {(y2 - y1) / HEIGHT:.9f} {s} {t}\n")
    return path


def write_coco(path: Path, *, by_name: bool) -> Path:
    frames = sorted({row[1] for row in DETECTIONS})
    number = (lambda f: {"file_name": f"img1/{f + 1:06d}.jpg"}) if by_name else (lambda f: {"frame_index": f})
    notes = [
        {"id": n, "image_id": f, "bbox": [x1, y1, x2 - x1, y2 - y1], "track_id": t, "score": s, "category_id": 1}
        for n, (t, f, x1, y1, x2, y2, s) in enumerate(DETECTIONS)
    ]
    path.write_text(json.dumps({"images": [{"id": f, **number(f)} for f in frames], "annotations": notes}))
    return path


@pytest.mark.parametrize("format", ["auto", "named"])
@pytest.mark.parametrize("kind", ["mot", "supervision", "ultralytics", "coco", "coco-names", "csv", "parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, kind: str, format: str) -> None:
    make = {
        "mot": lambda: write_mot_lines(tmp_path / "cam.txt"),
        "supervision": lambda: write_supervision(tmp_path / "cam.csv"),
        "ultralytics": lambda: write_ultralytics(tmp_path / "cam"),
        "coco": lambda: write_coco(tmp_path / "cam.json", by_name=False),
        "coco-names": lambda: write_coco(tmp_path / "cam.json", by_name=True),
        "csv": lambda: csv.write_csv(expected("cam"), tmp_path / "cam.csv") or tmp_path / "cam.csv",
        "parquet": lambda: parquet.write_table(expected("cam"), tmp_path / "cam.parquet") or tmp_path / "cam.parquet",
    }
    path = make[kind]()
    name = kind.split("-", maxsplit=1)[0] if format == "named" else "auto"
    table = read_tracks(path, format=name, fps=FPS, image_size=(WIDTH, HEIGHT))
    assert table.schema == TRACKS_SCHEMA
    table = table.take(pa.array(np.argsort(table["frame"].to_numpy(), kind="stable")))
    for column in TRACKS_SCHEMA.names:
        if column.startswith(("x", "y")):
            assert np.allclose(table[column].to_numpy(), expected("cam")[column].to_numpy(), atol=1e-4), column
        else:
            assert table[column].to_pylist() == expected("cam")[column].to_pylist(), column


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", "  ", ", ", " \t "])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_mot_separators(tmp_path: Path, delimiter: str, newline: str) -> None:
    path = write_mot_lines(tmp_path / "cam.txt", delimiter)
    path.write_bytes(path.read_text().replace("\n", newline).encode("utf-8-sig"))
    assert read_tracks(path, fps=FPS).equals(expected("cam"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("2,3,ten,20,40,100,1", "line 3: left is 'ten'", id="word"),
        pytest.param("2,3,,20,40,100,1", "line 3: left is empty", id="empty field"),
        pytest.param("2,3,nan,20,40,100,1", "line 3: box .* is nan", id="nan"),
        pytest.param("2,3,10,20,inf,100,1", "line 3: box .* inf", id="infinite"),
        pytest.param("2,3,10,20,0,100,1", "line 3: box .width, height. is 0, 100", id="zero width"),
        pytest.param("2,3,10,20,40,-5,1", "line 3: box .width, height. is 40, -5", id="negative height"),
        pytest.param("2,3,9000000,20,0.01,5,1", "line 3: box .width, height. is 0, 5", id="width lost in float32"),
        pytest.param("0,3,10,20,40,100,1", "line 3: frame is 0; expected 1 or more.*--frame-base", id="frame 0"),
        pytest.param("1.5,3,10,20,40,100,1", "line 3: frame is 1.5; expected a whole number", id="half a frame"),
        pytest.param("2,-7,10,20,40,100,1", "line 3: track id is -7", id="id below -1"),
        pytest.param(
            "2,18446744073709551615,1,2,4,10,1", "line 3: track id is 1.8.*; expected a whole number", id="id too large"
        ),
        pytest.param("2,3,10,20", "line 3: found 4 fields, expected 7", id="short line"),
        pytest.param(
            "1,3,10,20,40,100,1", "line 3: track 3 has a second box in frame 1, after line 1", id="second box"
        ),
        pytest.param("2,3,10,20,40,100,nan", "line 3: score is nan", id="score"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cam.txt"
    path.write_text(f"1,3,10,20,40,100,1\n\n{line}\n4,3,10,20,40,100,1\n")
    with pytest.raises(UserError, match=f"(?s)cam.txt, {message}"):
        read_tracks(path, fps=25)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cam.txt", b"", "is empty"),
        ("cam.txt", b" \n\n", "is empty"),
        ("cam.txt", bytes(range(256)) * 9, "binary"),
        ("cam.txt", b"frame,id,left,top,width,height\n1,2,3,4,5,6\n", "line 1: frame is 'frame'"),
        ("cam.txt", b"1,2,3\n", "found 3 fields"),
        ("cam.csv", b"x_min,y_min,x_max,y_max,tracker_id\n1,2,3,4,5\n", "column frame_index is missing"),
        ("cam.csv", b"track,frame,x1,y1,x2\n1,2,3,4,5\n", "column y2 is missing"),
        ("cam.csv", b"track,frame,x1,y1,x2,y2\n1,0,3,4,5,6\n1,,3,4,5,6\n", "line 3: frame is empty"),
        ("cam.csv", b"track,frame,x1,y1,x2,y2\n1,0,3,4,5,x\n", "line 2: y2 is 'x'"),
        ("cam.json", b"{", "not a json file"),
        ("cam.json", b"[1]", "expected COCO"),
        ("cam.json", b'{"images": [], "annotations": [{"image_id": 4, "bbox": [1, 2, 3, 4]}]}', "annotation"),
        ("cam.parquet", b"PAR1 and then nothing", "not a Parquet file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_tracks(path, fps=25)


def test_wrong_calls(tmp_path: Path) -> None:
    path = write_mot_lines(tmp_path / "cam.txt")
    with pytest.raises(UsageError, match="unknown"):
        read_tracks(path, format="yaml")
    with pytest.raises(UserError, match="no such file"):
        read_tracks(tmp_path / "none.txt")
    with pytest.raises(UserError, match="fps -1"):
        read_tracks(path, fps=-1)
    with pytest.raises(UserError, match="files name the cameras"):
        read_tracks(tmp_path, camera="a")
    labels = write_ultralytics(tmp_path / "labels")
    with pytest.raises(UserError, match="image_size"):
        read_tracks(labels, fps=FPS)
    with pytest.raises(UserError, match="folder"):
        read_tracks(next(labels.iterdir()), fps=FPS)
    with pytest.raises(UserError, match="class"):
        parquet.write_table(expected("cam"), tmp_path / "own.parquet")
        read_tracks(tmp_path / "own.parquet", class_id=1)


def test_frame_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given, by camera, from seqinfo.ini, or 25 with a word about it."""
    path = write_mot_lines(tmp_path / "cam.txt")
    assert read_tracks(path, fps=4)["time_s"].to_pylist()[-1] == 3.0
    assert read_tracks(path, fps={"cam": 6.0})["time_s"].to_pylist()[-1] == 2.0
    assert read_tracks(path)["time_s"].to_pylist()[-1] == 12 / 25
    assert "taking 25 frames per second" in capsys.readouterr().err
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=a\nframeRate=8\n")
    assert read_tracks(path)["time_s"].to_pylist()[-1] == 1.5


def test_ground_truth_rows_to_ignore(tmp_path: Path) -> None:
    lines = "1,1,10,20,40,100,1,1,0.9\n1,2,60,20,40,100,0,7,0.9\n"
    (tmp_path / "cam.txt").write_text(lines)
    assert read_tracks(tmp_path / "cam.txt", fps=25)["track"].to_pylist() == [1]
    (tmp_path / "gt.txt").write_text(lines.replace(",0.9", ",-1,-1"))
    assert read_tracks(tmp_path / "gt.txt", fps=25)["track"].to_pylist() == [1]
    (tmp_path / "scores.txt").write_text(lines.replace(",0.9", ",-1,-1"))  # a detector's score may be 0
    assert read_tracks(tmp_path / "scores.txt", fps=25)["track"].to_pylist() == [1, 2]
    assert read_tracks(tmp_path / "scores.txt", fps=25, class_id=7)["track"].to_pylist() == [2]


def test_folder_of_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mot_lines(tmp_path / "b.txt")
    write_supervision(tmp_path / "a.csv")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "settings.yaml").write_text("every: 1")
    table = read_tracks(tmp_path, fps={"a": FPS, "b": FPS})
    assert table.equals(pa.concat_tables([expected("a"), expected("b")]))
    said = capsys.readouterr().err
    assert "c.txt: empty, so this camera has no tracks" in said
    assert "read as supervision tracks (1 files), mot tracks (1 files)" in said
    write_mot_lines(tmp_path / "a.txt")
    with pytest.raises(UserError, match="two files for camera 'a'"):
        read_tracks(tmp_path, fps=FPS)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tracks in this folder"):
        read_tracks(tmp_path)


@pytest.mark.parametrize(
    ("lines", "track", "score"),
    [
        (["0 .5 .5 .1 .1"], [-1], [1.0]),
        (["0 .5 .5 .1 .1 4", "0 .2 .2 .1 .1 9"], [4, 9], [1.0, 1.0]),  # whole numbers: tracks
        (["0 .5 .5 .1 .1 .4", "0 .2 .2 .1 .1 1"], [-1, -1], [0.4, 1.0]),
        (["0 .5 .5 .1 .1 1 4", "0 .2 .2 .1 .1 1"], [4, -1], [1.0, 1.0]),  # beside seven fields the sixth is a score
    ],
)
def test_ultralytics_sixth_field(tmp_path: Path, lines: list[str], track: list[int], score: list[float]) -> None:
    (tmp_path / "my_cam_7.txt").write_text("\n".join(lines))
    table = read_tracks(tmp_path, fps=1, image_size={"my_cam": (100, 100)})
    assert table["track"].to_pylist() == track
    assert np.allclose(table["score"].to_numpy(), score)
    assert table["frame"].to_pylist() == [6] * len(track)
    assert set(table["camera"].to_pylist()) == {"my_cam"}


def test_coco_with_videos(tmp_path: Path) -> None:
    content = {
        "videos": [{"id": 1, "name": "north"}, {"id": 2, "name": "south"}],
        "images": [{"id": 5, "video_id": 2, "frame_id": 3}, {"id": 6, "video_id": 1, "frame_id": 4}],
        "annotations": [
            {"id": 1, "image_id": 5, "bbox": [1, 2, 3, 4], "track_id": 8, "category_id": 1},
            {"id": 2, "image_id": 6, "bbox": [1, 2, 3, 4], "category_id": 2},
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    table = read_tracks(tmp_path / "all.json", fps={"north": 1, "south": 2})
    assert table.select(["camera", "track", "frame", "time_s"]).to_pylist() == [
        {"camera": "south", "track": 8, "frame": 3, "time_s": 1.5},
        {"camera": "north", "track": -1, "frame": 4, "time_s": 4.0},
    ]
    assert read_tracks(tmp_path / "all.json", fps=1, class_id=2)["camera"].to_pylist() == ["north"]


def test_write_mot_round_trip(tmp_path: Path) -> None:
    table = expected("cam").sort_by([("frame", "ascending"), ("track", "ascending")])
    write_mot(table, tmp_path / "cam.txt")
    assert read_tracks(tmp_path / "cam.txt", fps=FPS).equals(table)
    assert [file.name for file in tmp_path.iterdir()] == ["cam.txt"]
    with pytest.raises(UserError, match="2 cameras"):
        write_mot(pa.concat_tables([table, expected("other")]), tmp_path / "two.txt")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_tools.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_mot(expected("cam"), tmp_path / "cam.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delimiter", [",", " "])
def test_large_file_is_read_at_once(tmp_path: Path, delimiter: str) -> None:
    rows = (f"{f},{t},10.5,20.5,40,100,0.9,-1,-1,-1\n" for f in range(1, 2001) for t in range(100))
    (tmp_path / "cam.txt").write_text("".join(rows).replace(",", delimiter))
    started = time.process_time()
    assert read_tracks(tmp_path / "cam.txt", fps=25).num_rows == 200_000
    assert time.process_time() - started < 5  # a Python loop over the lines takes longer


def test_formats_are_documented() -> None:
    assert all(reader.__doc__ for reader in FORMATS.values())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the MOT15 sequence in {REAL}")
@pytest.mark.parametrize(
    ("name", "num_rows", "num_tracks"), [("det", 321, 1), ("gt", 359, 8), ("tracker_result", 222, 13)]
)
def test_real_sequence(name: str, num_rows: int, num_tracks: int) -> None:
    table = read_tracks(REAL / f"{name}.txt", fps=25)
    assert table.num_rows == num_rows
    assert len(table["track"].unique()) == num_tracks
    assert (table["frame"].to_numpy().min(), table["frame"].to_numpy().max()) == (0, 70)


@pytest.mark.parametrize("cameras", [[], ["a"], ["b", "a", "b", "b", "c", "a"]])
def test_rows_by_camera(cameras):
    table = pa.table({"camera": pa.array(cameras, pa.string()), "row": list(range(len(cameras)))})
    found = rows_by_camera(table)
    assert set(found) == set(cameras)
    for name, rows in found.items():
        assert rows.equals(table.filter(pc.equal(table["camera"], name)))
