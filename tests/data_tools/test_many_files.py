"""Cameras of many files: real time, tracks per file or per camera, and corpora that grow."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from data_tools.corpus import shard_corpus
from data_tools.corpus_plan import Policy
from data_tools.sources import ShardSettings
from data_tools.validate import validate_dataset
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UserError

EIGHT, GAP_S = 1769846400.0, 600.0
SETTINGS = ShardSettings(interval_s=2.0, max_frames=4, window_s=GAP_S)
PATTERN = "{camera}/%Y%m%d_%H%M%S"
GROW = Policy(extend=True)


def shard(corpus, out: Path, **changes):
    return shard_corpus(
        corpus.videos, corpus.tracks, out, **{"settings": SETTINGS, "start_pattern": PATTERN, **changes}
    )


def sums(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "shards").glob("*.tar")}


def mtimes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}


def test_time_is_real(make_recordings, tmp_path):
    info = shard(make_recordings(), tmp_path / "out")
    assert [camera["num_tracklets"] for camera in info["cameras"]] == [6, 6]
    rows = read_manifest(tmp_path / "out", splits=["train"]).to_pylist()
    starts = [row["start_s"] - EIGHT for row in rows if row["camera"] == "cam2"]
    assert starts == pytest.approx([0, 3, 600, 603, 1200, 1203])  # in order of label
    assert sorted(sums(tmp_path / "out")) == [
        f"cam{c}-20260131T08{m}00Z-train-00000.tar" for c in (1, 2) for m in ("00", "10", "20")
    ]
    dataset = open_dataset(tmp_path / "out")
    sample = TrackletReader(dataset).read_sample(rows[2]["shard"], rows[2]["offset"], rows[2]["length"])
    assert sample.meta["source"] == "cam1/20260131_081000.mp4" and sample.frames[0] == 0
    assert sample.meta["times_s"][0] == EIGHT + GAP_S
    assert validate_dataset(tmp_path / "out").problems == []


def test_a_unit_may_take_from_many_files(make_recordings, tmp_path):
    corpus = make_recordings(cameras=1)
    hour, small = tmp_path / "hour", tmp_path / "small"
    shard(corpus, hour, settings=ShardSettings(interval_s=2.0, max_frames=4))
    assert list(sums(hour)) == ["cam1-20260131T080000Z-train-00000.tar"] and validate_dataset(hour).problems == []
    shard(corpus, small, settings=ShardSettings(interval_s=2.0, max_frames=4, crops_per_shard=12))
    assert sorted(sums(small)) == [f"cam1-20260131T080000Z-train-0000{n}.tar" for n in (0, 1)]
    of_hour, of_small = (read_manifest(out, splits=["train"]) for out in (hour, small))
    assert of_hour["key"] == of_small["key"] and of_hour["start_s"] == of_small["start_s"]


def test_tracks_of_a_camera_count_through_its_files(make_recordings, tmp_path):
    """A track id that goes on from file to file is cut there; so both ways to keep the same tracks give the same bytes."""
    digests = [
        shard(make_recordings(f"{per_camera}", per_camera=per_camera), tmp_path / f"out{per_camera}")["digest"]
        for per_camera in (False, True)
    ]
    assert digests[0] == digests[1]


def test_starts_come_from_the_files_themselves(make_recordings, tmp_path):
    import av

    corpus = make_recordings(cameras=1)
    with pytest.raises(UserError, match=r"does not tell when it begins .no creation_time"):
        shard(corpus, tmp_path / "none", start_pattern="")
    lines = ["camera,file,start"]
    for number, path in enumerate(sorted((corpus.videos / "cam1").iterdir())):
        start = f"2026-01-31T08:{10 * number:02}:00.000000Z"
        lines.append(f"cam1,cam1/{path.name},{start}")
        with av.open(str(path)) as source, av.open(str(tmp_path / "x.mp4"), "w") as target:
            target.metadata["creation_time"] = start
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        shutil.move(tmp_path / "x.mp4", path)
    (tmp_path / "starts.csv").write_text("\n".join(lines))
    of_file = shard(corpus, tmp_path / "of_file", start_pattern="")
    of_name = shard(corpus, tmp_path / "of_name")
    of_table = shard(corpus, tmp_path / "of_table", start_pattern="", starts=str(tmp_path / "starts.csv"))
    assert of_file["digest"] == of_name["digest"] == of_table["digest"]


def test_growing_by_whole_windows_gives_the_digest_of_all_at_once(make_recordings, tmp_path, capsys):
    """New files, before and after the old ones, and a new camera, in any order; nothing is written twice."""
    at_once = shard(make_recordings("whole", cameras=3), tmp_path / "all")
    corpus, out = make_recordings("grows", files=range(1, 2)), tmp_path / "out"
    shard(corpus, out)
    before = mtimes(out)
    make_recordings("grows", files=range(3))
    with pytest.raises(UserError, match=r"made of 2 videos, and there are 4 new ones .*--extend"):
        shard(corpus, out)
    shard(corpus, out, policy=GROW)
    make_recordings("grows", cameras=3)
    grown = shard(corpus, out, policy=GROW)
    assert grown["digest"] == at_once["digest"] and sums(out) == sums(tmp_path / "all")
    assert before.items() <= mtimes(out).items()
    capsys.readouterr()
    shard(corpus, out, policy=GROW)
    assert "finished already; nothing to do" in capsys.readouterr().err


def test_growing_inside_a_window_adds_a_shard(make_recordings, tmp_path):
    corpus, out = make_recordings(files=range(2)), tmp_path / "out"
    hour = ShardSettings(interval_s="auto", max_frames=4)
    first = shard(corpus, out, settings=hour)
    before = mtimes(out)
    make_recordings()
    info = shard(corpus, out, settings=hour, policy=GROW)
    assert (
        info["splits"]["train"]["tracklets"] == 8 and info["settings"]["interval_s"] == first["settings"]["interval_s"]
    )
    assert before.items() <= mtimes(out).items()
    assert sorted(sums(out)) == [f"cam{c}-20260131T080000Z-train-0000{n}.tar" for c in (1, 2) for n in (0, 1)]
    assert validate_dataset(out).problems == []


def test_growing_when_the_old_videos_are_in_the_archive(make_recordings, tmp_path, capsys):
    corpus, out = make_recordings(files=range(2), cameras=1), tmp_path / "out"
    shard(corpus, out)
    for folder in (corpus.videos, corpus.tracks):
        shutil.rmtree(folder)
    make_recordings(files=range(2, 3), cameras=1)
    assert shard(corpus, out, policy=GROW)["splits"]["train"]["tracklets"] == 6
    assert "2 of its videos are not in the folder any more" in capsys.readouterr().err


def test_growth_killed_in_the_middle_goes_on(make_recordings, tmp_path, monkeypatch):
    import data_tools.corpus

    corpus, out = make_recordings(files=range(2)), tmp_path / "out"
    shard(corpus, out)
    make_recordings()

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    for step in ("_work", "finalize"):
        with monkeypatch.context() as patched:
            patched.setattr(data_tools.corpus, step, killed)
            with pytest.raises(KeyboardInterrupt):
                shard(corpus, out, policy=GROW)
    assert shard(corpus, out)["digest"] == shard(make_recordings("whole"), tmp_path / "all")["digest"]


def test_what_was_taken_in_does_not_change(make_recordings, tmp_path):
    corpus, out = make_recordings(), tmp_path / "out"
    shard(corpus, out)
    tracks = corpus.tracks / "cam1" / "20260131_080000.txt"
    tracks.write_text(tracks.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match=r"cam1/20260131_080000.tracks.rows = 60, now it is 59"):
        shard(corpus, out, policy=GROW)


def test_ground_truth_needs_one_file_per_camera(make_recordings, tmp_path):
    corpus = make_recordings()
    corpus.truth.mkdir()
    truth = {"format": "taudl-synth-truth", "version": 1, "test_start_s": 0.0, "test_people": [1]}
    (corpus.truth / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match="ground truth is read for cameras of one video file each"):
        shard(corpus, tmp_path / "out")
    assert shard(corpus, tmp_path / "out", truth="none")["splits"]["train"]["tracklets"] == 12


PAIRS = [
    # what is spoilt, the message
    (lambda c: (c.tracks / "cam1" / "20260131_080000.txt").unlink(), r"no tracks; expected .*20260131_080000.txt"),
    (lambda c: shutil.rmtree(c.tracks / "cam2"), r"no tracks of camera 'cam2'"),
    (lambda c: (c.tracks / "cam9.txt").write_text("1,1,1,1,9,9,1,-1,-1,-1\n"), r"cam9.*but no such camera or video"),
    (lambda c: (c.tracks / "cam1" / "20260131_080000.txt").write_text("x,y\n"), r"20260131_080000.txt"),
]


@pytest.mark.parametrize("case", range(len(PAIRS)))
def test_files_without_a_partner_are_named(make_recordings, tmp_path, case):
    spoil, message = PAIRS[case]
    corpus = make_recordings()
    spoil(corpus)
    with pytest.raises(UserError, match=message):
        shard(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_file_of_tracks_is_a_file_that_saw_nobody(make_recordings, tmp_path):
    corpus = make_recordings()
    (corpus.tracks / "cam1" / "20260131_080000.txt").write_text("")
    info = shard(corpus, tmp_path / "out")
    assert [camera["num_tracklets"] for camera in info["cameras"]] == [4, 6]
