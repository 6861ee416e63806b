"""Units know the key frames before their crops: fewer frames are decoded, and the bytes are those of reading through."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools import corpus, units
from data_tools.corpus import shard_corpus
from data_tools.sources import ShardSettings
from data_tools.unit_cut import ROUTE_FIELDS, frames_of, with_routes
from data_tools.video import FrameIndex


def test_frames_of_crops():
    columns = {"frame": [60, 3, 110, 60], "stamp": [600, 30, 1100, 600], "key_frame": [50, 0, 100, 50]}
    crops = pa.table({**columns, "key_stamp": [500, 0, 1000, 500], "seek_stamp": [480, -20, 980, 480]})
    wanted, route = frames_of(crops)
    assert (wanted.tolist(), route.stamps.tolist()) == ([3, 60, 110], [30, 600, 1100])
    assert (route.keys.tolist(), route.key_stamps.tolist()) == ([0, 50, 100], [0, 500, 1000])
    assert route.seek_stamps.tolist() == [-20, 480, 980]


@pytest.mark.parametrize(
    ("index", "frames"),
    [(None, [1, 2]), (FrameIndex(stamps=np.arange(3), decoding_stamps=np.arange(3), is_key=np.arange(3) == 0), [1, 3])],
)
def test_crops_without_a_route(index, frames):
    """The file has no usable index, or one that ends before the crops do."""
    crops = with_routes(pa.table({"frame": frames}), index)
    assert crops["stamp"].null_count == 2
    wanted, route = frames_of(crops)
    assert (wanted.tolist(), route) == (frames, None)


def test_a_route_changes_no_byte(make_recordings, tmp_path, monkeypatch):
    recordings = make_recordings(cameras=1)
    settings = ShardSettings(interval_s=2.0, max_frames=3)
    monkeypatch.setattr(corpus, "_remove_plan_tables", lambda *_: None)

    def shard(name):
        places = (recordings.videos, recordings.tracks, tmp_path / name)
        return shard_corpus(*places, settings=settings, start_pattern="{camera}/%Y%m%d_%H%M%S")["digest"]

    guided = shard("guided")
    monkeypatch.setattr(units, "frames_of", lambda crops: (frames_of(crops)[0], None))
    assert shard("counted") == guided
    plan = json.loads((tmp_path / "guided" / "plan.json").read_text())
    sources = [source for unit in plan["units"] for source in unit["sources"]]
    assert sum(source["decoded"] for source in sources) < sum(source["last_frame"] + 1 for source in sources)
    for path in (tmp_path / "guided" / "plan").iterdir():
        table = pq.read_table(path)
        assert table.column_names[-4:] == [field.name for field in ROUTE_FIELDS]
        assert (table["key_frame"].to_numpy() <= table["frame"].to_numpy()).all()
