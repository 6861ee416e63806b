"""`taudl shard --dry-run`: the numbers of the run that follows, and nothing written."""

from __future__ import annotations

import json

import pytest

import data_tools.estimate
from taudl_dist.cli import main
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UserError


def test_the_estimate_is_of_the_run_that_follows(make_recordings, tmp_path, capsys):
    corpus, out = make_recordings(), tmp_path / "out"
    command = ["shard", "--videos", str(corpus.videos), "--tracks", str(corpus.tracks), "--out", str(out)]
    command += ["--interval-s", "2", "--max-frames", "4", "--start-pattern", "{camera}/%Y%m%d_%H%M%S"]
    assert main([*command, "--dry-run", "--json"]) == 0 and not out.exists()
    found = json.loads(capsys.readouterr().out)
    assert (found["cameras"], found["videos"], found["units"], found["units_to_do"]) == (2, 6, 2, 2)
    assert (found["tracklets"], found["crops"]) == (12, 48)
    assert found["seconds"] > 0 and not found["is_finished"]
    assert main(command) == 0
    units = json.loads((out / "plan.json").read_text())["units"]
    decoded = sum(source["decoded"] for unit in units for source in unit["sources"])
    assert found["frames_to_decode"] == decoded < 6 * 60  # jumps to key frames leave some out
    written = sum(shard["bytes"] for shard in open_dataset(out).info["shards"])
    assert 0.3 < found["bytes_to_write"] / written < 3  # tars are padded to 10 kB
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "of which 0 are to do" in said and "finished   already" in said and "nothing was written" in said
    assert main([*command[:-2], "--dry-run"]) == 1  # the plan was made with real times


def test_filters_reach_the_plan(make_recordings, tmp_path, capsys):
    corpus = make_recordings(cameras=1)
    command = ["shard", "--videos", str(corpus.videos), "--tracks", str(corpus.tracks), "--out", str(tmp_path / "out")]
    command += ["--interval-s", "2", "--start-pattern", "{camera}/%Y%m%d_%H%M%S", "--dry-run"]
    assert main([*command, "--edge-margin", "12"]) == 0
    assert "dropped 6 boxes within --edge-margin" in capsys.readouterr().err  # a walk begins 10 pixels from the edge
    assert main([*command, "--min-length-s", "3"]) == 1  # all of them last 2.9 s
    assert "'tracklets_short': 6" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["cam1.mp4", ".mp4"])
def test_damage_costs_the_estimate_no_more_than_the_run(make_corpus, tmp_path, monkeypatch, capsys, damaged):
    corpus, real = make_corpus(), data_tools.estimate.iter_pictures

    def frames(source, **kwargs):
        if str(source).endswith(damaged):
            raise UserError(f"{source}: damaged")
        return real(source, **kwargs)

    monkeypatch.setattr(data_tools.estimate, "iter_pictures", frames)
    command = ["shard", "--videos", str(corpus.videos), "--tracks", str(corpus.tracks), "--out", str(tmp_path / "out")]
    assert main([*command, "--interval-s", "2", "--crops-per-shard", "50", "--dry-run", "--json"]) == 0
    said, err = capsys.readouterr()
    assert "cam1.mp4: damaged" in err and (json.loads(said)["seconds"] is None) == (damaged == ".mp4")
