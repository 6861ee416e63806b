"""Promise 1: the dataset is a function of videos, tracks and settings; bad input is refused without half-written output."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from data_tools.corpus import shard_corpus
from data_tools.folder import LocalFolder
from data_tools.sources import ShardSettings
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError

SETTINGS = ShardSettings(interval_s=2.0, crops_per_shard=20, max_frames=8)


def shard(corpus, out: Path, **changes):
    return shard_corpus(corpus.videos, corpus.tracks, out, **{"settings": SETTINGS, **changes})


def checksums(dataset: Path) -> dict[str, str]:
    """Every shard and its index, and the digest."""
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (dataset / "shards").iterdir()}
    return {**sums, "digest": json.loads((dataset / "dataset.json").read_text())["digest"]}


def test_what_stands_in_a_dataset(make_corpus, tmp_path):
    corpus = make_corpus()
    info = shard(corpus, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.cameras == ["cam1", "cam2"] and dataset.digest == info["digest"]
    assert info["splits"] == {"train": {"tracklets": 8, "frames": 64}, "query": EMPTY, "gallery": EMPTY}
    assert len(dataset.shards) == 4  # 4 tracklets of 8 crops, 20 crops a shard: 3 + 1, in two cameras
    index = dataset.training
    assert index.label.tolist() == [0, 1, 2, 3] * 2 and index.camera_offsets.tolist() == [0, 4, 8]
    reader = TrackletReader(dataset)
    for row in range(len(index)):
        sample = reader.read_sample(index.shard[row], index.offset[row], index.length[row])
        assert reader.read(index.shard[row], index.offset[row], index.length[row]) == sample.jpegs
        first, last = sample.frames[0], sample.frames[-1]
        assert (first % 30, last % 30) == (0, 29) and len(sample.frames) == 8  # spread over the whole walk
        assert sample.meta["frames"] == sample.frames and sample.meta["times_s"][0] == pytest.approx(first / 10)
        assert sample.meta["track"] == (first // 30 + (row >= 4)) % 4 + 1
        check_colours(sample)
    assert not list((tmp_path / "out").rglob("*.tmp-*")) and not (tmp_path / "out" / "plan").exists()


EMPTY = {"tracklets": 0, "frames": 0}


def check_colours(sample) -> None:
    """The crop shows the person of that track, and nothing else."""
    import io

    from PIL import Image

    person = sample.meta["track"] - 1
    for jpeg in sample.jpegs:
        picture = np.asarray(Image.open(io.BytesIO(jpeg)))
        assert picture.shape == (40, 20, 3)
        middle = picture[10:30, 5:15].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - [(40 * person) % 256, 255 - (60 * person) % 256, 128]).max() < 25


def test_truth_gives_query_and_gallery(make_corpus, tmp_path):
    corpus = make_corpus(truth_from=2)
    info = shard(corpus, tmp_path / "out")
    assert {split: counts["tracklets"] for split, counts in info["splits"].items()} == {
        "train": 4,
        "query": 4,
        "gallery": 4,
    }
    rows = read_manifest(tmp_path / "out", splits=("train", "query", "gallery")).to_pylist()
    assert {row["person_id"] for row in rows if row["split"] == "train"} == {None}
    assert sorted((r["camera"], r["person_id"]) for r in rows if r["split"] == "query") == [
        ("cam1", 3), ("cam1", 4), ("cam2", 3), ("cam2", 4)
    ]  # fmt: skip
    assert (
        max(row["end_s"] for row in rows if row["split"] == "train")
        < 6.0
        <= min(row["start_s"] for row in rows if row["split"] != "train")
    )
    without = shard(corpus, tmp_path / "none", truth="none")
    assert without["splits"]["train"]["tracklets"] == 8 and without["splits"]["query"]["tracklets"] == 0


def test_a_second_run_does_nothing(make_corpus, tmp_path, capsys):
    corpus, out = make_corpus(), tmp_path / "out"
    shard(corpus, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    shard(corpus, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "finished already" in capsys.readouterr().err


def test_bytes_do_not_depend_on_place_or_interruption(make_corpus, tmp_path):
    """Another folder for inputs and output; a unit lost, a unit cut off, and leftovers of killed attempts."""
    corpus = make_corpus("a", truth_from=2)
    shard(corpus, tmp_path / "one")
    other = make_corpus("b", truth_from=2)
    two = tmp_path / "two"
    shard(other, two)
    assert checksums(two) == checksums(tmp_path / "one")

    for file in ("dataset.json", "tracklets.arrow", "shards/cam1-train-00000.ok.json"):
        (two / file).unlink()
    (two / "shards/cam1-train-00000.tar").write_bytes(b"half")
    (two / "shards/cam2-train-00000.tar.tmp-0123").write_bytes(b"half")
    rewrite_plan_dir(other, two)
    kept = (two / "shards/cam2-train-00000.tar").stat().st_mtime_ns
    shard(other, two)
    assert checksums(two) == checksums(tmp_path / "one")
    assert (two / "shards/cam2-train-00000.tar").stat().st_mtime_ns == kept


def rewrite_plan_dir(corpus, out: Path) -> None:
    """The folder `plan` of an unfinished run; a finished one has removed it."""
    from data_tools import corpus_plan as module

    inputs = module.Inputs(videos=corpus.videos, tracks=corpus.tracks)
    plan, made, _ = module.plan_corpus(inputs, LocalFolder(out / "none"), settings=SETTINGS, policy=module.Policy())
    assert plan == json.loads((out / "plan.json").read_text())
    module.write_plan(LocalFolder(out), made, lambda: None)


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(make_corpus, tmp_path):
    corpus = make_corpus(truth_from=2)
    shard(corpus, tmp_path / "one")
    shard(corpus, tmp_path / "two", workers=2)
    assert checksums(tmp_path / "two") == checksums(tmp_path / "one")


@pytest.mark.slow
def test_bytes_do_not_depend_on_kills(make_corpus, tmp_path):
    """SIGKILL after ever longer times, until a run gets through: the same bytes, and nothing left behind."""
    corpus, out = make_corpus(people=12), tmp_path / "killed"
    settings = ShardSettings(interval_s=2.0, crops_per_shard=4, max_frames=8)
    shard(corpus, tmp_path / "one", settings=settings)
    script = textwrap.dedent(f"""
        import av, PIL.Image, webdataset.writer  # so that the time until the kill is time at work
        from data_tools.corpus import shard_corpus
        from data_tools.sources import ShardSettings
        print("ready", flush=True)
        shard_corpus({str(corpus.videos)!r}, {str(corpus.tracks)!r}, {str(out)!r},
                     settings=ShardSettings(interval_s=2.0, crops_per_shard=4, max_frames=8))
    """)
    kills = 0
    for attempt in range(25):
        run = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=(tmp_path / "log").open("w")
        )
        run.stdout.readline()
        try:
            run.wait(timeout=0.1 * 1.25**attempt)
            break
        except subprocess.TimeoutExpired:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
    assert kills >= 2 and run.returncode == 0, (tmp_path / "log").read_text()
    assert checksums(out) == checksums(tmp_path / "one")
    assert not list(out.rglob("*.tmp-*"))


def test_killed_while_planning(make_corpus, tmp_path, monkeypatch):
    """Before plan.json stands, the folder holds parts of a plan; the next run replaces them."""
    import data_tools.corpus_plan

    corpus, out = make_corpus(), tmp_path / "out"

    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.corpus_plan, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            shard(corpus, out)
    assert {path.name for path in out.iterdir()} == {"driver.json", "plan"}
    shard(corpus, out, settings=ShardSettings(interval_s=2.0))


def test_interrupt_leaves_nothing_that_looks_whole(make_corpus, tmp_path, monkeypatch):
    import data_tools.units

    corpus, out = make_corpus(), tmp_path / "out"

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.units, "write_unit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shard(corpus, out)
    with pytest.raises(UserError, match=r"not finished.*run its `taudl shard` command again"):
        open_dataset(out)
    shard(corpus, out)
    shard(make_corpus("again"), tmp_path / "undisturbed")
    assert checksums(out) == checksums(tmp_path / "undisturbed")


def test_other_settings_or_inputs_are_refused(make_corpus, tmp_path):
    corpus, out = make_corpus(), tmp_path / "out"
    shard(corpus, out)
    with pytest.raises(UserError, match=r"settings.max_frames = 8, now it is 9"):
        shard(corpus, out, settings=ShardSettings(interval_s=2.0, crops_per_shard=20, max_frames=9))
    tracks = corpus.tracks / "cam1.txt"
    tracks.write_text("".join(tracks.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"tracks\.(rows|sha256)"):
        shard(corpus, out)


def lines(corpus) -> list[str]:
    return (corpus.tracks / "cam1.txt").read_text().splitlines(keepends=True)


def spoil_missing_video(corpus):
    (corpus.videos / "cam1.mp4").unlink()
    return r"video without tracks: none; tracks without video: cam1"


def spoil_missing_tracks(corpus):
    (corpus.tracks / "cam2.txt").unlink()
    return r"video without tracks: cam2; tracks without video: none"


def spoil_no_videos(corpus):
    for path in corpus.videos.iterdir():
        path.unlink()
    return r"no such folder, or an empty one; expected files like <camera>.mp4"


def spoil_cut_video(corpus):
    path = corpus.videos / "cam1.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    return r"cam1.mp4: cannot be opened as video"


def spoil_empty_video(corpus):
    (corpus.videos / "cam1.mp4").write_bytes(b"")
    return r"cam1.mp4: the file is empty"


def spoil_two_videos(corpus):
    (corpus.videos / "cam1.gif").write_bytes(b"GIF89a")
    return r"2 videos are called cam1, with different endings; keep one"


def spoil_frames_beyond(corpus):
    (corpus.tracks / "cam1.txt").write_text("".join([*lines(corpus), "500,9,1,1,20,40,1,-1,-1,-1\n"]))
    return r"has 120 frames, but 1 of its 121 track rows lie beyond them, up to frame 499"


def spoil_nan_box(corpus):
    (corpus.tracks / "cam1.txt").write_text("".join([*lines(corpus), "50,9,nan,1,20,40,1,-1,-1,-1\n"]))
    return r"cam1.txt"


def spoil_all_outside(corpus):
    rows = [line.split(",") for line in lines(corpus)]
    (corpus.tracks / "cam1.txt").write_text("".join(",".join([*r[:2], "5000", *r[3:]]) for r in rows))
    return r"camera 'cam1': no training tracklet is left of 4 tracks .*'boxes_outside': 120"


def spoil_truth_version(corpus):
    corpus.truth.mkdir()
    (corpus.truth / "truth.json").write_text('{"format": "taudl-synth-truth", "version": 9}')
    return r"truth.json: not the truth of a corpus \(format 'taudl-synth-truth' version 9\)"


SPOILS = [value for name, value in globals().items() if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=[spoil.__name__ for spoil in SPOILS])
def test_bad_input_is_named_and_leaves_nothing(make_corpus, tmp_path, spoil):
    corpus, out = make_corpus(), tmp_path / "out"
    message = spoil(corpus)
    with pytest.raises(UserError, match=message):
        shard(corpus, out)
    assert not out.exists()


FOREIGN = ["thesis.tex", "plan/thesis.tex", "plan/thesis.parquet", "plan.json"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_full_folder_is_refused(make_corpus, tmp_path, name):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"years": "of work"}')
    with pytest.raises(UserError, match=r"holds something else|of another program"):
        shard(make_corpus(), tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [file]


def test_folders_that_are_not_ours_stay(make_corpus, tmp_path):
    (tmp_path / "out" / "plan" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "plan" / "deep" / "thesis.tex").touch()
    (tmp_path / "out" / "thesis.tmp-1").mkdir()
    shard(make_corpus(), tmp_path / "out")
    assert (tmp_path / "out" / "plan" / "deep" / "thesis.tex").exists() and (tmp_path / "out" / "thesis.tmp-1").exists()


def test_a_unit_that_fails_is_listed_and_the_others_are_kept(make_corpus, tmp_path, monkeypatch):
    import data_tools.units

    corpus, out = make_corpus(), tmp_path / "out"
    real = data_tools.units.iter_pictures

    def damaged(path, **kwargs):
        if Path(path).stem == "cam1":
            raise UserError("cam1.mp4: damaged or cut off at frame 3")
        return real(path, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.units, "iter_pictures", damaged)
        with pytest.raises(UserError, match=r"2 of 4 units failed(.|\n)*cam1-train-00000: cam1\.mp4: damaged"):
            shard(corpus, out)
    kept = (out / "shards/cam2-train-00000.tar").stat().st_mtime_ns
    shard(corpus, out)
    assert (out / "shards/cam2-train-00000.tar").stat().st_mtime_ns == kept


def test_one_camera_is_enough_for_a_dataset(make_corpus, tmp_path):
    info = shard(make_corpus(cameras=1), tmp_path / "out")
    assert [camera["num_tracklets"] for camera in info["cameras"]] == [4]


@pytest.mark.parametrize(
    "setting",
    [{"max_frames": 0}, {"interval_s": -1.0}, {"interval_s": float("nan")}, {"min_frames": 17}, {"min_distance": -1.0}],
)
def test_settings_are_checked(setting):
    with pytest.raises(UsageError, match=next(iter(setting)).replace("_", "-")):
        ShardSettings(**setting)


def test_a_camera_that_saw_nobody_is_left_out(make_corpus, tmp_path, capsys):
    corpus = make_corpus()
    (corpus.tracks / "cam2.txt").write_text("")
    assert [camera["name"] for camera in shard(corpus, tmp_path / "out")["cameras"]] == ["cam1"]
    assert "left out 1 of 2 cameras, whose tracks are empty: cam2" in capsys.readouterr().err


def test_tracks_that_count_frames_from_0(make_corpus, tmp_path):
    corpus = make_corpus()
    digest = shard(corpus, tmp_path / "from1")["digest"]
    for path in corpus.tracks.iterdir():
        rows = (line.split(",", 1) for line in path.read_text().splitlines())
        path.write_text("".join(f"{int(frame) - 1},{rest}\n" for frame, rest in rows))
    with pytest.raises(UserError, match=r"frame is 0.*give --frame-base"):
        shard(corpus, tmp_path / "from0")
    assert shard(corpus, tmp_path / "from0", frame_base=0)["digest"] == digest
    with pytest.raises(UsageError, match="frame base -1"):
        shard(corpus, tmp_path / "other", frame_base=-1)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"request": 5}'])
def test_a_damaged_plan_is_named(make_corpus, tmp_path, content):
    corpus = make_corpus(cameras=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        shard(corpus, tmp_path / "out")
