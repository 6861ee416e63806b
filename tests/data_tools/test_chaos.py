"""Promise 1 under SIGKILL, small: drivers and Ray workers die, the bytes stay those of an undisturbed run (benchmarks/chaos.py)."""

from __future__ import annotations

import pytest

from benchmarks.chaos import committed, disturb, verdict
from data_tools.corpus import shard_corpus
from data_tools.sources import ShardSettings

FLAGS = ["--interval-s", "2", "--max-frames", "8", "--crops-per-shard", "8"]


@pytest.mark.slow
def test_kills_change_nothing(make_corpus, tmp_path):
    corpus = make_corpus(cameras=4, people=24)
    settings = ShardSettings(interval_s=2.0, max_frames=8, crops_per_shard=8)
    expected = shard_corpus(corpus.videos, corpus.tracks, tmp_path / "one", settings=settings)
    out = tmp_path / "killed"
    log = disturb(corpus.videos.parent, out, kills=["driver", "worker", "driver"], workers=(1, 2), seed=2, flags=FLAGS)
    found = verdict(out, log, expected["digest"])
    assert found["units"] == 96 and sum(log.kills.values()) == 3 and found["same digest"]
    assert found["unfinished files left"] == found["committed files written again"] == 0
    assert len(committed(out)) == 3 * found["units"]
