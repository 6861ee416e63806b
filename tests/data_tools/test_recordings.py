"""Which files make up a camera and when they begin: folders, tables, names; clocks that go backwards."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from data_tools.recordings import Recording, find_overlaps, find_video_files, stamp
from data_tools.video import VideoInfo
from taudl_dist.errors import UsageError, UserError

EIGHT = datetime(2026, 1, 31, 8, tzinfo=UTC).timestamp()


def touch(folder, *names: str):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(folder, **options):
    return [(file.camera, file.name, file.start_s, file.is_alone) for file in find_video_files(folder, **options)]


def test_a_file_is_a_camera_and_so_is_a_folder(tmp_path):
    touch(tmp_path, "a.mp4", "b/2.mkv", "b/1.mp4", "b/deep/3.mp4", "notes/readme.txt", ".hidden/x.mp4", "b/.part.mp4")
    assert found(tmp_path) == [
        ("a", "a", None, True),
        ("b", "b/1", None, False),
        ("b", "b/2", None, False),
        ("b", "b/deep/3", None, False),
    ]


PATTERNS = [
    # file, pattern, camera, start
    ("cam1_20260131_080000.mp4", "{camera}_%Y%m%d_%H%M%S", "cam1", EIGHT),
    ("a_b_20260131_080000.mp4", "{camera}_%Y%m%d_%H%M%S", "a_b", EIGHT),
    ("hall/2026-01-31/08.00.00.500_7.mp4", "{camera}/%Y-%m-%d/%H.%M.%S.%f_*", "hall", EIGHT + 0.5),
    ("2026-01-31/hall-090000+0100.mp4", "%Y-%m-%d/{camera}-%H%M%S%z", "hall", EIGHT),
    ("x/31Jan26 0800 c[1].mp4", "x/%d%b%y %H%M {camera}", "c[1]", EIGHT),
]


@pytest.mark.parametrize(("file", "pattern", "camera", "start_s"), PATTERNS)
def test_names_tell_the_start(tmp_path, file, pattern, camera, start_s):
    touch(tmp_path, file)
    assert found(tmp_path, start_pattern=pattern) == [(camera, file.removesuffix(".mp4"), start_s, False)]


@pytest.mark.parametrize("pattern", ["{camera}", "%Y%m%d", "{camera}_%Q", "{camera}{camera}%Y", "{camera}_%"])
def test_patterns_that_cannot_work(tmp_path, pattern):
    with pytest.raises(UsageError, match="start-pattern"):
        find_video_files(touch(tmp_path, "a.mp4"), start_pattern=pattern)


@pytest.mark.parametrize("name", ["other.mp4", "cam1_20261331_080000.mp4"])
def test_a_name_that_does_not_fit_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}.*its name"):
        find_video_files(touch(tmp_path, name), start_pattern="{camera}_%Y%m%d_%H%M%S")


def table(tmp_path, *lines: str):
    path = tmp_path / "starts.csv"
    path.write_text("camera,file,start\n" + "".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_table_tells_camera_and_start(tmp_path):
    videos = touch(tmp_path / "videos", "day1/a.mp4", "day2/a.mp4")
    starts = table(tmp_path, "hall,day2/a.mp4,2026-01-31T09:00:00+01:00", f"hall,day1/a.mp4,{EIGHT - 60}")
    assert found(videos, starts=starts) == [("hall", "day1/a", EIGHT - 60, False), ("hall", "day2/a", EIGHT, False)]


TABLES = [
    (["hall,none.mp4,0"], "line 2: .*expected a file below"),
    (["hall,../starts.csv,0"], "line 2: .*expected a file below"),
    (["hall,a.mp4,yesterday"], "time 'yesterday'; expected a time like"),
    (["hall,a.mp4,nan"], "time 'nan'"),
    (["hall,a.mp4,0", "hall,a.mp4,9"], "line 3: a.mp4 stands in it twice"),
    (["hall,a.mp4,0"], "b.mp4: has no line in --starts"),
]


@pytest.mark.parametrize(("lines", "message"), TABLES)
def test_tables_that_do_not_fit(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        find_video_files(touch(tmp_path / "videos", "a.mp4", "b.mp4"), starts=table(tmp_path, *lines))


def test_two_of_a_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"2 videos are called b/1"):
        find_video_files(touch(tmp_path / "one", "b/1.mp4", "b/1.avi"))
    with pytest.raises(UserError, match=r"both a.mp4 and the folder a/"):
        find_video_files(touch(tmp_path / "two", "a/1.mp4", "a.mp4"))
    with pytest.raises(UsageError, match="expected one of them"):
        find_video_files(tmp_path, starts="x.csv", start_pattern="{camera}%Y")
    with pytest.raises(UsageError, match=r"s3://b/x\.csv: expected a file on this machine"):
        find_video_files(tmp_path, starts="s3://b/x.csv")


def test_stamps():
    assert (stamp(EIGHT), stamp(EIGHT + 0.25)) == ("20260131T080000Z", "20260131T080000-250Z")


def recording(name: str, start_s: float, camera: str = "a") -> Recording:
    video = VideoInfo(path=f"{name}.mp4", fps=10.0, num_frames=100, width=9, height=9, duration_s=10.0)
    return Recording(camera=camera, name=name, source=Path(video.path), video=video, start_s=start_s)


OVERLAPS = [
    # starts of files of 10 s, which of them are refused
    ([0, 10, 30], []),
    ([0, 9.2], []),  # within the second that names can tell
    ([0, 8.5], [1]),
    ([30, 5, 0], [1]),  # the order of the list does not matter
    ([7, 0, 14], [0]),  # the refused one does not stand in the way of the next
    ([0, 0], [1]),
]


@pytest.mark.parametrize(("starts", "refused"), OVERLAPS)
def test_overlaps(starts, refused):
    files = [recording(f"f{number}", start_s) for number, start_s in enumerate(starts)]
    problems = find_overlaps([*files, recording("other", 0.0, camera="b")], {})
    assert sorted(problems) == [f"f{number}" for number in refused]


def test_what_is_settled_is_never_refused():
    problems = find_overlaps([recording("new", 0.0)], {"a": [(5.0, 15.0, "old.mp4")], "b": [(0.0, 10.0, "other.mp4")]})
    assert "old.mp4 of the same camera" in problems["new"] and "19700101T000005Z" in problems["new"]
