"""Duplication and purity, counted by hand; and that SSTT lowers duplication on a real sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_tools.sampling_quality import NOBODY, judge_sampling, match_people, measure
from data_tools.tracks import TRACKS_SCHEMA, read_tracks

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "mot15" / "TUD-Campus"


def table(rows: list[tuple]) -> pa.Table:
    """Rows of (camera, track, frame, x); boxes are 20 x 40 pixels, 10 frames a second."""
    columns = [[c, t, f, f / 10, x, 0.0, x + 20.0, 40.0, 1.0] for c, t, f, x in rows]
    return pa.table([list(column) for column in zip(*columns)], schema=TRACKS_SCHEMA)


def test_by_hand():
    """Person 1 has two whole tracklets in a and one in b; person 2 one that is half of it; a false one; a mixed one of 2."""
    tracks = table(
        [("a", 1, 0, 0.0), ("a", 1, 1, 0.0), ("a", 2, 5, 0.0), ("b", 1, 0, 0.0), ("a", 3, 0, 0.0), ("a", 3, 1, 0.0),
         ("a", 4, 0, 0.0), ("a", 5, 0, 0.0), ("a", 5, 1, 0.0), ("a", 5, 2, 0.0)]
    )  # fmt: skip
    person = np.array([1, 1, 1, 1, 2, NOBODY, NOBODY, 2, 2, 1])
    found = measure(tracks, person)
    assert (found.tracklets, found.false, found.identities) == (6, 1, 3)  # 1 in a, 1 in b, 2 in a
    assert found.duplication == 2 / 3  # 1 and 2 in a
    assert found.purity == pytest.approx((1 + 1 + 1 + 0.5 + 0 + 2 / 3) / 6)


def test_matching_is_one_to_one_and_by_camera_and_frame():
    truth = table([("a", 7, 0, 0.0), ("a", 8, 0, 6.0), ("b", 9, 0, 0.0), ("a", 7, 3, 0.0)])
    tracks = table(
        [("a", 1, 0, 5.0), ("a", 2, 0, 1.0), ("a", 3, 0, 60.0), ("b", 1, 0, 2.0), ("a", 1, 1, 0.0), ("a", 1, 3, 12.0)]
    )
    assert match_people(tracks, truth).tolist() == [8, 7, NOBODY, 9, NOBODY, NOBODY]


def test_no_tracks():
    found = measure(table([("a", 1, 0, 0.0)]).slice(0, 0), np.zeros(0, int))
    assert (found.tracklets, found.duplication, found.purity) == (0, 0.0, 0.0)


def test_fragments_are_what_sstt_is_for():
    """Each of five people is cut into four tracks; at instants further apart than a crossing one of the four is taken."""
    rows = [
        ("a", 10 * p + part, 40 * p + f, 2.0 * f)
        for p in range(5)
        for part in range(4)
        for f in range(10 * part, 10 * part + 10)
    ]
    truth = table([(c, t // 10 + 1, f, x) for c, t, f, x in rows])
    found = judge_sampling(table(rows), truth, interval_s=4.0, min_distance=0.0)
    assert (found["all tracks"].tracklets, found["all tracks"].duplication) == (20, 1.0)
    assert (found["temporal"].tracklets, found["temporal"].duplication) == (5, 0.0)


@pytest.mark.skipif(
    not REAL.is_dir(), reason="MOT15's TUD-Campus may not be shipped with the project; made-up tracks are judged above"
)
def test_on_tud_campus():
    tracks, truth = (read_tracks(REAL / name, camera="c", fps=25.0) for name in ("tracker_result.txt", "gt.txt"))
    found = judge_sampling(tracks, truth, interval_s=1.0, min_distance=120.0)
    rates = [found[name].duplication for name in ("all tracks", "temporal", "temporal + spatial")]
    assert rates == pytest.approx([4 / 7, 3 / 6, 1 / 5])
