"""Ground truth to query and gallery."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_tools.truth import Truth, find_truth, read_truth, split_visits
from data_tools.video import VideoInfo
from taudl_dist.errors import UserError

VIDEO = VideoInfo(path="cam1.mp4", fps=10.0, num_frames=1000, width=100, height=100, duration_s=100.0)
GOOD = {"format": "taudl-synth-truth", "version": 1, "test_start_s": 5.0, "test_people": [7, 9]}


def test_visits_are_split_at_gaps_over_a_second():
    person = np.array([3, 3, 3, 3, 5, 5])
    time_s = np.array([1.0, 2.0, 3.5, 3.6, 1.0, 1.5])
    visits = split_visits(person, time_s)
    assert [(v.person_id, v.splits, v.rows.tolist()) for v in visits] == [
        (3, ("query",), [0, 1]),  # 1.0 s apart is one visit
        (3, ("gallery",), [2, 3]),  # 1.5 s later begins another
        (5, ("query", "gallery"), [4, 5]),  # one visit alone is both
    ]
    assert split_visits(np.zeros(0, np.int64), np.zeros(0)) == []


def test_only_test_people_after_the_start_and_in_sight(tmp_path):
    rows = [
        (10, 7, 1.0),  # before test_start_s
        (51, 7, 1.0), (52, 7, 0.3), (53, 7, 0.29),  # the last is hidden
        (60, 8, 1.0),  # a training person
        (70, 9, 1.0),
    ]  # fmt: skip
    (tmp_path / "cam1.txt").write_text("".join(f"{f},{p},11,11,20,40,1,1,{v}\n" for f, p, v in rows))
    truth = Truth(folder=tmp_path, test_start_s=5.0, test_people=frozenset({7, 9}))
    table, visits = read_truth(truth, VIDEO, "cam1")
    assert table["frame"].to_pylist() == [50, 51, 69] and table["x1"].to_pylist() == [10.0] * 3
    assert [visit.person_id for visit in visits] == [7, 9]


def test_a_camera_nobody_crossed_and_one_without_truth(tmp_path):
    (tmp_path / "cam1.txt").write_text("")
    truth = Truth(folder=tmp_path, test_start_s=0.0, test_people=frozenset({1}))
    assert read_truth(truth, VIDEO, "cam1")[1] == []
    with pytest.raises(UserError, match="no ground truth for camera 'cam2'"):
        read_truth(truth, VIDEO, "cam2")


def test_finding(tmp_path, capsys):
    tracks = tmp_path / "tracks"
    assert find_truth("auto", tracks) is None
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "truth.json").write_text(json.dumps(GOOD))
    assert find_truth("auto", tracks).test_people == {7, 9}
    assert "ground truth" in capsys.readouterr().err
    assert find_truth("none", tracks) is None
    assert find_truth(str(tmp_path / "truth"), tracks).test_start_s == 5.0
    with pytest.raises(UserError, match="no such file; give --truth a folder"):
        find_truth(str(tmp_path / "elsewhere"), tracks)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        *(json.dumps({**GOOD, **c}) for c in ({"version": 2}, {"test_people": 3}, {"test_start_s": "soon"})),
        *(json.dumps({**GOOD, **c}) for c in ({"test_start_s": float("nan")}, {"test_people": [float("inf")]})),
    ],
)
def test_damaged(tmp_path, content):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(UserError, match=r"truth\.json: not the truth of a corpus"):
        find_truth(str(tmp_path), tmp_path / "tracks")


def test_a_visibility_that_is_no_number(tmp_path):
    (tmp_path / "cam1.txt").write_text("60,7,11,11,20,40,1,1,none\n")
    with pytest.raises(UserError, match="ninth field, visibility"):
        read_truth(Truth(folder=tmp_path, test_start_s=5.0, test_people=frozenset({7})), VIDEO, "cam1")
