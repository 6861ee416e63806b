"""SSTT against a slow, obvious second implementation on random tables, and against hand-made cases."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_tools.sstt import estimate_interval, sample_tracklets
from data_tools.tracks import TRACKS_SCHEMA, read_tracks
from taudl_dist.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "mot15" / "TUD-Campus"


def table(rows: list[tuple]) -> pa.Table:
    """Tracks of (camera, track, time_s, centre x, centre y); boxes are 20 x 40 pixels."""
    return pa.table(
        {
            "camera": [row[0] for row in rows],
            "track": pa.array([row[1] for row in rows], pa.int64()),
            "frame": pa.array([round(row[2] * 100) for row in rows], pa.int64()),
            "time_s": pa.array([row[2] for row in rows], pa.float64()),
            "x1": pa.array([row[3] - 10 for row in rows], pa.float32()),
            "y1": pa.array([row[4] - 20 for row in rows], pa.float32()),
            "x2": pa.array([row[3] + 10 for row in rows], pa.float32()),
            "y2": pa.array([row[4] + 20 for row in rows], pa.float32()),
            "score": pa.array([1.0] * len(rows), pa.float32()),
        },
        schema=TRACKS_SCHEMA,
    )


def slow_sample(tracks: pa.Table, interval_s: float, min_distance: float, first_instant_s: float) -> list[tuple]:
    """Sect. 3.1 word by word: every instant in turn, every track at every instant."""
    views: dict = defaultdict(lambda: defaultdict(list))
    for row in tracks.to_pylist():
        if row["track"] >= 0:
            centre = ((row["x1"] + row["x2"]) / 2, (row["y1"] + row["y2"]) / 2)
            views[row["camera"]][row["track"]].append((row["time_s"], centre))
    result = []
    for camera in sorted(views):
        paths = {track: sorted(path) for track, path in views[camera].items()}
        end = max(path[-1][0] for path in paths.values())
        sampled: set[int] = set()
        label = i = 0
        while (instant := first_instant_s + i * interval_s) <= end:
            alive = [t for t, path in paths.items() if path[0][0] <= instant <= path[-1][0] and t not in sampled]
            alive.sort(key=lambda t: (-round(paths[t][-1][0] - paths[t][0][0], 6), t))
            chosen: list[int] = []
            for t in alive:
                place = place_at(paths[t], instant)
                if all(math.dist(place, place_at(paths[other], instant)) >= min_distance for other in chosen):
                    chosen.append(t)
            for t in sorted(chosen):
                result.append((camera, t, label, instant))
                label += 1
            sampled.update(chosen)
            i += 1
    return result


def place_at(path: list[tuple], instant: float) -> tuple[float, float]:
    before = [point for point in path if point[0] <= instant][-1]
    after = next((point for point in path if point[0] > instant), before)
    share = (instant - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
    return tuple(a + share * (b - a) for a, b in zip(before[1], after[1]))  # type: ignore[return-value]


def as_tuples(result: pa.Table) -> list[tuple]:
    return [tuple(row.values()) for row in result.to_pylist()]


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_implementation(seed: int) -> None:
    random = np.random.default_rng(seed)
    fps = float(random.choice([1, 10, 25, 29.97]))
    rows = []
    for camera in ("b", "a", "c10")[: random.integers(1, 4)]:
        for track in random.permutation(200)[: random.integers(1, 40)].tolist():
            start = int(random.integers(0, 300))
            frames = start + np.flatnonzero(random.random(random.integers(1, 120)) < 0.6)  # with gaps
            x, y = random.uniform(0, 200, 2)
            speed = random.uniform(-3, 3, 2)
            rows += [
                (camera, track, f / fps, x + speed[0] * n, y + speed[1] * n) for n, f in enumerate(frames.tolist())
            ]
    rows += [("a", -1, 1.0, 5.0, 5.0), ("a", -1, 1.0, 5.0, 5.0)]
    tracks = table([rows[i] for i in random.permutation(len(rows))])
    for interval_s in (0.1, 0.7, 3.0, 40.0):
        for min_distance in (0.0, 30.0, 150.0):
            for first_instant_s in (0.0, -3.3, 2.5):
                result = sample_tracklets(
                    tracks, interval_s=interval_s, min_distance=min_distance, first_instant_s=first_instant_s
                )
                assert as_tuples(result) == slow_sample(tracks, interval_s, min_distance, first_instant_s)


CASES: list[tuple[str, list, dict, list]] = [
    ("no detections", [], {}, []),
    ("only detections without a track", [("a", -1, 0.0, 0, 0)], {}, []),
    ("one detection on an instant", [("a", 5, 10.0, 0, 0)], {}, [("a", 5, 0, 10.0)]),
    ("one detection beside an instant", [("a", 5, 10.1, 0, 0)], {}, []),
    ("first and last detection count as alive", [("a", 5, 10.0, 0, 0), ("a", 6, 4.0, 0, 0), ("a", 6, 10.0, 0, 0)], {},
     [("a", 5, 0, 10.0), ("a", 6, 1, 10.0)]),
    ("alive in a gap between detections", [("a", 5, 9.0, 0, 0), ("a", 5, 11.0, 0, 0)], {}, [("a", 5, 0, 10.0)]),
    ("sampled once, at its first instant", [("a", 5, 9.0, 0, 0), ("a", 5, 31.0, 0, 0)], {}, [("a", 5, 0, 10.0)]),
    ("between two instants", [("a", 5, 11.0, 0, 0), ("a", 5, 19.0, 0, 0)], {}, []),
    ("before the first instant", [("a", 5, 1.0, 0, 0), ("a", 5, 29.0, 0, 0)], {"first_instant_s": 30.0}, []),
    ("labels in order of instant, then track", [("a", 9, 10.0, 0, 0), ("a", 3, 20.0, 0, 0), ("a", 4, 10.0, 0, 0)], {},
     [("a", 4, 0, 10.0), ("a", 9, 1, 10.0), ("a", 3, 2, 20.0)]),
    ("labels start anew in each camera", [("b", 1, 10.0, 0, 0), ("a", 1, 20.0, 0, 0)], {},
     [("a", 1, 0, 20.0), ("b", 1, 0, 10.0)]),
    ("exactly min_distance apart is far enough", [("a", 1, 10.0, 0, 0), ("a", 2, 10.0, 3, 4)], {"min_distance": 5.0},
     [("a", 1, 0, 10.0), ("a", 2, 1, 10.0)]),
    ("nearer: ties in length go to the smaller id", [("a", 2, 10.0, 0, 0), ("a", 1, 10.0, 3, 4)], {"min_distance": 5.1},
     [("a", 1, 0, 10.0)]),
    ("nearer: the longer track wins, the other one comes at the next instant",
     [("a", 1, 9.0, 0, 0), ("a", 1, 21.0, 0, 0), ("a", 2, 8.0, 1, 1), ("a", 2, 25.0, 1, 1)], {"min_distance": 5.0},
     [("a", 2, 0, 10.0), ("a", 1, 1, 20.0)]),
    ("a refused track does not keep others away",
     [("a", 1, 10.0, 0, 0), ("a", 2, 10.0, 4, 0), ("a", 3, 10.0, 8, 0)], {"min_distance": 5.0},
     [("a", 1, 0, 10.0), ("a", 3, 1, 10.0)]),
    ("the place is interpolated, not the nearest detection's",
     [("a", 1, 9.0, 0, 0), ("a", 1, 19.0, 100, 0), ("a", 2, 10.0, 10, 0)], {"min_distance": 1.0}, [("a", 1, 0, 10.0)]),
    ("lengths that differ by rounding alone tie",  # 0.3 - 0.2 < 0.1 - 0.0 in floating point
     [("a", 2, 0.0, 0, 0), ("a", 2, 0.1, 0, 0), ("a", 1, 0.2 - 0.2, 1, 0), ("a", 1, 0.3 - 0.2, 1, 0)],
     {"min_distance": 5.0}, [("a", 1, 0, 0.0)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "settings", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_cases(rows: list, settings: dict, expected: list) -> None:
    result = sample_tracklets(table(rows), **{"interval_s": 10.0, **settings})
    assert as_tuples(result) == expected
    assert result.schema.names == ["camera", "track", "label", "instant_s"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval_s": 0.0}, "interval_s is 0.0"),
        ({"interval_s": -1.0}, "interval_s is -1.0"),
        ({"interval_s": float("nan")}, "interval_s is nan"),
        ({"interval_s": "often"}, "interval_s is 'often'"),
        ({"interval_s": 1e-9}, "instants"),
        ({"interval_s": 1.0, "min_distance": -1.0}, "min_distance is -1.0"),
        ({"interval_s": 1.0, "min_distance": float("inf")}, "min_distance is inf"),
        ({"interval_s": 1.0, "first_instant_s": float("nan")}, "first_instant_s is nan"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample_tracklets(table([("a", 1, 0.0, 0, 0), ("a", 1, 9.0, 0, 0)]), **settings)


def test_bad_tables() -> None:
    with pytest.raises(UserError, match="no column time_s"):
        sample_tracklets(table([]).drop_columns(["time_s"]), interval_s=1.0)
    with pytest.raises(UserError, match="not a finite number"):
        sample_tracklets(table([("a", 1, 0.0, float("nan"), 0)]), interval_s=1.0)


def test_auto_interval_exceeds_the_transit_time(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", n, start, 0, 0) for n in range(100) for start in (n * 5.0, n * 5.0 + 8.0 + n / 100)]
    rows += [("b", 7, 0.0, 0, 0), ("b", 7, 3600.0, 0, 0)]  # one who stays does not stretch it
    interval_s = estimate_interval(table(rows))
    assert 1.2 * 8.9 < interval_s < 1.3 * 9.0
    assert "95 % of 101 tracks" in capsys.readouterr().err
    assert sample_tracklets(table(rows), interval_s="auto").equals(sample_tracklets(table(rows), interval_s=interval_s))
    with pytest.raises(UserError, match="give interval_s in seconds"):
        estimate_interval(table([("a", 1, 0.0, 0, 0)]))
    with pytest.raises(UserError, match="give interval_s in seconds"):
        estimate_interval(table([]))


def test_cost_does_not_grow_with_idle_time() -> None:
    """Instants without candidates cost nothing: a day of silence between two tracks, an instant each 0.1 s."""
    rows = [("a", t, start, 10.0 * t, 0) for t, start in ((1, 0.0), (1, 5.0), (2, 86400.0), (2, 86405.0))]
    assert len(sample_tracklets(table(rows), interval_s=0.1, min_distance=3.0)) == 2


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the MOT15 sequence in {REAL}")
def test_real_sequence() -> None:
    tracks = read_tracks(REAL / "gt.txt", fps=25)
    assert as_tuples(sample_tracklets(tracks, interval_s=1.0, min_distance=100.0)) == slow_sample(
        tracks, 1.0, 100.0, 0.0
    )
    assert sample_tracklets(tracks, interval_s=1.0)["track"].to_pylist() == [1, 2, 3, 4, 5, 6, 7, 8]
