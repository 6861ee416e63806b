"""Promise 1 where machines go and come: a sharding job of several machines gives the bytes of one undisturbed process."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from benchmarks.chaos import command, committed
from data_tools.corpus import shard_corpus
from data_tools.sources import ShardSettings

from ..training.faults import machines

FLAGS = ["--interval-s", "2", "--max-frames", "8", "--crops-per-shard", "8"]


@pytest.mark.slow
def test_a_machine_goes_and_another_comes(make_corpus, tmp_path):
    corpus = make_corpus(cameras=4, people=24)
    settings = ShardSettings(interval_s=2.0, max_frames=8, crops_per_shard=8)
    expected = shard_corpus(corpus.videos, corpus.tracks, tmp_path / "one", settings=settings)
    out = tmp_path / "out"

    def wait_for(units: int) -> None:
        deadline = time.monotonic() + 120
        while len(committed(out)) // 3 < units:
            assert job.poll() is None and time.monotonic() < deadline, job.communicate()[0]
            time.sleep(0.01)

    with machines(2) as (cluster, (second,)):
        job = subprocess.Popen(
            command(corpus.videos.parent, out, 2, FLAGS),
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        wait_for(5)
        cluster.kill(second)
        wait_for(20)
        cluster.add()
        said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    assert json.loads((out / "dataset.json").read_text())["digest"] == expected["digest"]
    assert len(committed(out)) == 3 * 96
    assert not list(out.rglob("*.tmp-*"))
