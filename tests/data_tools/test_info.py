"""What `taudl info` counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_tools.corpus import shard_corpus
from data_tools.info import dataset_info, info_table, longest_gap
from data_tools.sources import ShardSettings
from taudl_dist.cli import main
from taudl_dist.dataset import open_dataset, read_manifest
from taudl_dist.dataset.schema import SPLITS

GAPS = [
    # intervals, longest gap, where it begins
    ([], 0.0, None),
    ([(0, 5)], 0.0, None),
    ([(0, 5), (5, 6)], 0.0, None),
    ([(0, 5), (8, 9), (20, 30)], 11.0, 9.0),
    ([(0, 50), (8, 9), (20, 30), (60, 61)], 10.0, 50.0),  # covered by a longer one
    ([(20, 30), (0, 5)], 15.0, 5.0),  # any order
]


@pytest.mark.parametrize(("intervals", "gap_s", "begin_s"), GAPS)
def test_longest_gap(intervals, gap_s, begin_s):
    start, end = np.array(intervals, float).reshape(-1, 2).T
    assert longest_gap(start, end) == (gap_s, begin_s)


def test_counts(make_corpus, tmp_path, capsys):
    corpus, out = make_corpus(truth_from=2), tmp_path / "out"
    shard_corpus(corpus.videos, corpus.tracks, out, settings=ShardSettings(interval_s=2.0))
    info = dataset_info(open_dataset(out), read_manifest(out, splits=SPLITS))
    assert [camera["tracklets"] for camera in info["cameras"]] == [{"train": 2, "query": 2, "gallery": 2}] * 2
    assert info["people"] == 2 and info["cameras"][0]["images"] == 32
    assert (info["cameras"][0]["first_s"], info["cameras"][0]["last_s"]) == (0.0, pytest.approx(11.9))
    assert "cam2" in info_table(info)
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info
    for command in ("info", "validate", "status"):
        assert main([command, f"file://{out}"]) == 0
