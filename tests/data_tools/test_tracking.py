"""Real trackers on moving squares, and a folder of videos through `taudl track` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools import track_corpus
from data_tools.tracking import TRACKERS, TrackSettings, track_video
from data_tools.tracks import read_tracks
from data_tools.video import write_video
from taudl_dist.cli import main
from taudl_dist.errors import UsageError

NUM_FRAMES, FPS, HEIGHT, WIDTH, SIDE = 40, 10.0, 96, 160, 24
COLOURS = ((255, 0, 0), (0, 0, 255))


def left_edge(square: int, frame: int) -> int:
    return 4 + 3 * frame if square == 0 else WIDTH - SIDE - 4 - 3 * frame


def make_video(path: Path, num_squares: int = 2) -> Path:
    """A red square that goes right and a blue one below it that goes left, 3 pixels a frame."""
    frames = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 128, np.uint8)
    for square in range(num_squares):
        for frame in range(NUM_FRAMES):
            x, y = left_edge(square, frame), 10 + 50 * square
            frames[frame, y : y + SIDE, x : x + SIDE] = COLOURS[square]
    write_video(path, frames, FPS)
    return path


def find_squares(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The detector of these tests: boxes around what is red and what is blue."""
    boxes = []
    for colour in COLOURS:
        y, x = np.nonzero(np.abs(picture.astype(int) - colour).sum(axis=2) < 150)
        if len(x):
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_square_is_one_track(tmp_path: Path, tracker: str) -> None:
    video = make_video(tmp_path / "cam.mp4")
    tracks = track_video(video, find_squares, TrackSettings(tracker=tracker))
    assert tracks["camera"].unique().to_pylist() == ["cam"]
    assert (tracks["track"].to_numpy() >= 0).all()
    assert np.allclose(tracks["time_s"].to_numpy(), tracks["frame"].to_numpy() / FPS)
    is_red = tracks["y1"].to_numpy() < 40
    for square, rows in ((0, np.flatnonzero(is_red)), (1, np.flatnonzero(~is_red))):
        found = tracks.take(rows)
        assert len(found["track"].unique()) == 1
        assert found["frame"].to_pylist() == list(range(found["frame"][0].as_py(), NUM_FRAMES))
        assert found.num_rows >= NUM_FRAMES - 3  # those before the track is confirmed are missing
        expected = [left_edge(square, frame) for frame in found["frame"].to_pylist()]
        assert np.abs(found["x1"].to_numpy() - expected).max() <= 2  # what video compression may move


def test_every_second_frame(tmp_path: Path) -> None:
    tracks = track_video(make_video(tmp_path / "cam.mp4"), find_squares, TrackSettings(every=2))
    assert len(tracks["track"].unique()) == 2
    assert not (tracks["frame"].to_numpy() % 2).any()
    assert tracks["frame"].to_numpy().max() == NUM_FRAMES - 2


def test_short_tracks_and_nobody(tmp_path: Path) -> None:
    video = make_video(tmp_path / "cam.mp4")
    assert track_video(video, find_squares, TrackSettings(min_seconds=60)).num_rows == 0
    nobody = track_video(make_video(tmp_path / "empty.mp4", 0), find_squares, TrackSettings())
    assert nobody.num_rows == 0


@pytest.mark.parametrize("settings", [{"tracker": "best"}, {"every": 0}, {"start_score": 2.0}, {"min_seconds": -1.0}])
def test_wrong_settings(settings: dict) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(settings)).replace('_', '-')}"):
        TrackSettings(**settings)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of `taudl track` for a folder of two videos, one without people."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "hall.mp4")
    make_video(tmp_path / "videos" / "yard.mp4", 0)
    monkeypatch.setattr(track_corpus, "load_detector", lambda *_, **__: find_squares)
    return ["track", "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--detector", "squares.onnx"]


def test_command(tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert main([*corpus, "--json"]) == 0
    hall, yard = json.loads(capsys.readouterr().out)["videos"]
    assert (hall["video"], hall["frames"], hall["tracks"]) == ("hall.mp4", NUM_FRAMES, 2)
    assert 3.5 <= hall["shortest_s"] <= hall["longest_s"] <= 3.9
    assert (yard["tracks"], yard["median_s"]) == (0, None)
    assert Image.open(tmp_path / "out" / "hall.jpg").size == (WIDTH, HEIGHT)
    table = read_tracks(tmp_path / "out", fps=FPS)
    assert table["camera"].unique().to_pylist() == ["hall"]
    assert table.num_rows == hall["detections"]


def test_a_second_run_goes_on(tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(corpus) == 0
    first = capsys.readouterr().out
    kept = tmp_path / "out" / "hall.txt"
    stamp, content = kept.stat().st_mtime_ns, (tmp_path / "out" / "yard.txt").read_bytes()
    (tmp_path / "out" / "yard.txt").unlink()
    assert main(corpus) == 0
    second = capsys.readouterr()
    assert second.out == first
    assert "hall.txt: already there" in second.err
    assert kept.stat().st_mtime_ns == stamp
    assert (tmp_path / "out" / "yard.txt").read_bytes() == content


def test_other_settings_or_a_foreign_folder_are_refused(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(corpus) == 0
    assert main([*corpus, "--every", "2"]) == 1
    assert "were made with every 1, now it is 2" in capsys.readouterr().err
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    corpus[4] = str(tmp_path / "photos")
    assert main(corpus) == 1
    assert "not made by `taudl track`" in capsys.readouterr().err


def test_damaged_settings_are_named(tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.yaml").write_text(": : [")
    assert main(corpus) == 1
    assert "settings.yaml: damaged" in capsys.readouterr().err


def test_a_damaged_video_does_not_stop_the_others(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos" / "attic.mp4").write_bytes(b"no video at all")
    assert main(corpus) == 1
    message = capsys.readouterr().err
    assert "attic.mp4: failed" in message
    assert "1 of 3 videos failed (attic)" in message
    assert {file.name for file in (tmp_path / "out").glob("*.txt")} == {"hall.txt", "yard.txt"}


def test_stopped_in_the_middle(tmp_path: Path, corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no file that looks whole, and the next run finishes."""

    def interrupted(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        interrupted.frames += 1  # type: ignore[attr-defined]
        if interrupted.frames > 9:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return find_squares(picture)

    interrupted.frames = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(track_corpus, "load_detector", lambda *_, **__: interrupted)
    assert main(corpus) == 130
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"settings.yaml"}
    monkeypatch.setattr(track_corpus, "load_detector", lambda *_, **__: find_squares)
    assert main(corpus) == 0


def test_wrong_usage(corpus: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*corpus, "--tracker", "best"]) == 2
    assert main(["track", "--videos", "a"]) == 2
    assert main([*corpus, "--every", "0"]) == 2
    assert main([*corpus, "--videos", "nowhere"]) == 1
    assert "Traceback" not in capsys.readouterr().err
