"""What fails stands alone, is listed, counts against the budget, and can be tried again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import data_tools.corpus
from data_tools.corpus import shard_corpus
from data_tools.corpus_plan import Policy
from data_tools.sources import ShardSettings
from data_tools.units import make_unit
from data_tools.validate import validate_dataset
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UsageError, UserError
from tests.data_tools.conftest import run_here

SETTINGS = ShardSettings(interval_s=2.0, max_frames=4, window_s=600.0)
PATTERN = "{camera}/%Y%m%d_%H%M%S"
LENIENT = Policy(max_failed_share=0.5)
RETRY = Policy(max_failed_share=0.5, retry_failed=True)


def shard(corpus, out: Path, policy: Policy | None = None, **changes):
    return shard_corpus(
        corpus.videos, corpus.tracks, out, policy=policy, **{"settings": SETTINGS, "start_pattern": PATTERN, **changes}
    )


def failures(out: Path) -> list[dict]:
    file = out / "failures.json"
    return json.loads(file.read_text()) if file.exists() else []


def video_of(corpus, number: int = 0) -> Path:
    return sorted((corpus.videos / "cam1").iterdir())[number]


def spoil_unreadable(corpus):
    video_of(corpus).write_bytes(b"no video")
    return "cannot be opened as video"


def spoil_cut_off(corpus):
    """A transport stream has no header that tells its length; a Matroska file does."""
    import av

    path = video_of(corpus)
    with av.open(str(path)) as source, av.open(str(path.with_suffix(".mkv")), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.unlink()
    path = path.with_suffix(".mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cut off|damaged"


def spoil_tracks_outside(corpus):
    tracks = corpus.tracks / "cam1" / f"{video_of(corpus).stem}.txt"
    tracks.write_text(tracks.read_text() + "500,9,1,1,20,40,1,-1,-1,-1\n")
    return "lie beyond them"


def spoil_clock(corpus):
    for folder, end in ((corpus.videos, ".mp4"), (corpus.tracks, ".txt")):
        shutil.copy(folder / "cam1" / f"20260131_080000{end}", folder / "cam1" / f"20260131_080002{end}")
    return "a clock went backwards"


SPOILS = [value for name, value in globals().items() if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=[spoil.__name__ for spoil in SPOILS])
def test_a_bad_video_stands_alone(make_recordings, tmp_path, spoil):
    """Refused without a budget; within it left out and listed; tried again when it is mended, to the bytes of a good corpus."""
    good, out = make_recordings("good"), tmp_path / "out"
    corpus = make_recordings("bad")
    message = spoil(corpus)
    with pytest.raises(UserError, match=message):
        shard(corpus, out)
    assert not out.exists()
    info = shard(corpus, out, LENIENT)
    assert info["failures"] == {"videos": 1, "units": 0, "tracklets": 0}
    (failed,) = failures(out)
    assert failed["level"] == "video" and failed["name"].startswith("cam1/2026") and failed["problem"]
    kept = {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert shard(corpus, out, LENIENT)["digest"] == info["digest"]
    for folder in (corpus.videos, corpus.tracks):
        shutil.rmtree(folder)
    for folder in ("videos", "tracks"):
        shutil.copytree(getattr(good, folder), getattr(corpus, folder))
    shard(corpus, out, LENIENT)  # does not try again by itself
    assert len(failures(out)) == 1
    mended = shard(corpus, out, RETRY)
    assert mended["digest"] == shard(good, tmp_path / "whole")["digest"] and not failures(out)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}.items()


def damage(monkeypatch, files: tuple[str, ...], *, after: int = 0) -> None:
    """Videos of these names cannot be decoded beyond some frames."""
    import data_tools.units

    real = data_tools.units.iter_pictures

    def frames(path, **kwargs):
        for index, picture in real(path, **kwargs):
            if Path(path).name in files and index >= after:
                raise UserError(f"{path}: damaged or cut off at frame {index}")
            yield index, picture

    monkeypatch.setattr(data_tools.units, "iter_pictures", frames)


def test_damage_in_mid_stream_costs_the_tracklets_it_touches(make_recordings, tmp_path, monkeypatch):
    corpus, out = make_recordings(), tmp_path / "out"
    with monkeypatch.context() as patched:
        damage(patched, (video_of(corpus).name,), after=40)  # the second of two people walks in frames 30 to 59
        with pytest.raises(UserError, match=r"0 of 6 units failed, 2 of 12 tracklets are missing"):
            shard(corpus, out)
        info = shard(corpus, out, LENIENT)
        assert info["failures"] == {"videos": 0, "units": 0, "tracklets": 2}
        assert [(one["level"], one["unit"]) for one in failures(out)] == [
            ("tracklet", f"cam{c}-20260131T080000Z-train-00000") for c in (1, 2)
        ]
        assert [camera["num_tracklets"] for camera in info["cameras"]] == [5, 5]
        assert open_dataset(out).training.label.tolist() == [0, 1, 2, 3, 4] * 2  # no gap in the labels
        assert validate_dataset(out).problems == []
    kept = (out / "shards" / "cam1-20260131T081000Z-train-00000.tar").stat().st_mtime_ns
    assert shard(corpus, out)["digest"] == info["digest"]
    assert shard(corpus, out, RETRY)["digest"] == shard(make_recordings("whole"), tmp_path / "undisturbed")["digest"]
    assert (out / "shards" / "cam1-20260131T081000Z-train-00000.tar").stat().st_mtime_ns == kept and not failures(out)
    assert not (out / "plan").exists()


def test_a_unit_that_fails_is_left_out_within_the_budget(make_recordings, tmp_path, monkeypatch, capsys):
    corpus, out = make_recordings(), tmp_path / "out"
    with monkeypatch.context() as patched:
        damage(patched, (video_of(corpus).name,))
        with pytest.raises(UserError, match=r"2 of 6 units failed, 4 of 12 tracklets"):
            shard(corpus, out, Policy(max_failed_share=0.3))
        info = shard(corpus, out, LENIENT)
        assert info["failures"]["units"] == 2 and len(info["shards"]) == 4
        assert validate_dataset(out).problems == []
    capsys.readouterr()
    shard(corpus, out)
    assert "finished already; nothing to do (2 units failed; --retry-failed" in capsys.readouterr().err
    assert "frame 0" in failures(out)[0]["problem"]
    assert shard(corpus, out, RETRY)["digest"] == shard(make_recordings("whole"), tmp_path / "undisturbed")["digest"]


def test_hopeless_work_is_given_up(make_recordings, tmp_path, monkeypatch):
    import data_tools.units

    corpus, out = make_recordings(cameras=3, files=range(6)), tmp_path / "out"
    cut = []

    def broken(*_args, **_kwargs):
        cut.append(1)
        raise UserError("every video is damaged")

    monkeypatch.setattr(data_tools.units, "iter_pictures", broken)
    with pytest.raises(UserError, match="11 of 18 units failed"):
        shard(corpus, out, Policy(max_failed_share=0.1))
    assert len(cut) == 11


def test_a_full_disk_stops_the_work_and_keeps_what_is_done(make_recordings, tmp_path, monkeypatch):
    import data_tools.units

    corpus, out = make_recordings(), tmp_path / "out"
    real, done = data_tools.units.write_unit, []

    def write(folder, unit, *args, **kwargs):
        done.append(unit)
        if len(done) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(folder, unit, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.units, "write_unit", write)
        with pytest.raises(UserError, match=r"cannot be written to any more .*; 2 of 6 units are done and kept: mend"):
            shard(corpus, out, LENIENT)
    assert not list(out.rglob("*.tmp-*"))
    kept = {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert shard(corpus, out)["digest"] == shard(make_recordings("whole"), tmp_path / "undisturbed")["digest"]
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}.items()


def test_damage_in_real_bytes_ends_as_a_result(make_recordings, tmp_path):
    """Whatever the decoder makes of noise in the stream, a worker returns a result and the dataset stays valid."""
    corpus, out = make_recordings(cameras=1), tmp_path / "out"
    video = video_of(corpus)
    content = bytearray(video.read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = np.random.default_rng(0).bytes(middle.stop - middle.start)
    video.write_bytes(bytes(content))
    try:
        shard(corpus, out, LENIENT)
    except UserError as error:
        assert str(video.name) in str(error) or "tracklets are missing" in str(error)
    else:
        assert validate_dataset(out).problems == []


def test_a_worker_returns_errors_of_the_system(monkeypatch):
    import data_tools.units

    for error, is_full in (
        (OSError(errno.EIO, "disk"), False),
        (OSError(errno.EDQUOT, "quota"), True),
        (MemoryError(), False),
    ):

        def broken(*_args, error=error):
            raise error
            yield

        monkeypatch.setattr(data_tools.units, "cut_unit", broken)
        result = make_unit(None)
        assert result.problem and result.is_target_lost == is_full


CRASH = """
import os, signal
import data_tools.units
real = data_tools.units.iter_pictures
def crash(source, **kwargs):
    for number, picture in real(source, **kwargs):
        if {name!r} in str(source):
            os.kill(os.getpid(), signal.SIGSEGV)
        yield number, picture
data_tools.units.iter_pictures = crash
"""


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_a_decoder_that_crashes_costs_its_unit_with_one_worker_too(make_recordings, tmp_path, monkeypatch):
    corpus, out = make_recordings(cameras=1, files=range(2)), tmp_path / "out"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CRASH.format(name="cam1/20260131_080000"))
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path / "site")
        info = shard(corpus, out, LENIENT)
        assert info["failures"] == {"videos": 0, "units": 1, "tracklets": 0}
        (failed,) = failures(out)
        assert "its worker died each time" in failed["problem"] and "signal 11" in failed["problem"]
        assert validate_dataset(out).problems == []
    kept = {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    monkeypatch.setattr(data_tools.corpus, "run_beside", run_here)
    digest = shard(corpus, out, RETRY)["digest"]
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}.items()
    assert not list(out.rglob("*.tmp-*"))
    assert shard(corpus, tmp_path / "undisturbed")["digest"] == digest


@pytest.mark.usefixtures("beside")
def test_a_fault_of_ours_in_the_process_beside_is_raised(make_recordings, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import data_tools.units\ndata_tools.units.write_unit = None\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(TypeError, match="NoneType"):
        shard(make_recordings(cameras=1), tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes, or makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int) -> Path:
        how = ["remount," if os.path.ismount(place) else ""]
        words = ["mount", "-t", "tmpfs", "-o", f"{how[0]}size={size}", "tmpfs", str(place)]
        mounted = subprocess.run(words, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(
                f"a disk that really fills has to be mounted, which is not allowed here: {mounted.stderr.strip()}"
            )
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def test_a_disk_that_fills_and_is_made_larger(make_recordings, tmp_path, small_disk):
    """At every size it stops with one sentence; what was committed stays, and room is all that is needed to go on."""
    corpus, said = make_recordings(), []
    expected = shard(corpus, tmp_path / "undisturbed")["digest"]
    out, kept, size = small_disk(2**12) / "out", {}, 2**12
    while True:
        small_disk(size)
        try:
            info = shard(corpus, out)
            break
        except (UserError, OSError) as error:
            said.append(str(error))
        state = {path: path.stat().st_mtime_ns for path in out.rglob("*.ok.json")}
        assert kept.items() <= state.items()
        kept, size = state, size + 3 * 2**12
    assert info["digest"] == expected and validate_dataset(out).problems == []
    assert not list(out.rglob("*.tmp-*"))
    assert {text for text in said if "cannot be written to any more" in text} and all(
        "o space left" in text for text in said
    )


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_the_budget_is_checked(share):
    with pytest.raises(UsageError, match="max-failed-share"):
        Policy(max_failed_share=share)


def test_a_unit_that_always_kills_its_worker_stands_alone(make_recordings, tmp_path, monkeypatch):
    import data_tools.corpus

    corpus, out = make_recordings(), tmp_path / "out"

    def on_ray(call, tasks, *, workers):
        """What `run_on_ray` gives when one worker dies each time it is tried."""
        assert workers == 2
        for task in tasks:
            yield task, RuntimeError("SIGSEGV") if task.unit.startswith("cam2-20260131T0810") else call(task)

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.corpus, "run_on_ray", on_ray)
        info = shard(corpus, out, LENIENT, workers=2)
        assert info["failures"]["units"] == 1 and "its worker died each time" in failures(out)[0]["problem"]
        assert validate_dataset(out).problems == []
        patched.undo()
    assert shard(corpus, out, RETRY)["digest"] == shard(make_recordings("whole"), tmp_path / "undisturbed")["digest"]


@pytest.mark.parametrize("policy", [None, LENIENT])
def test_a_unit_that_was_committed_is_there_whatever_became_of_its_worker(
    make_recordings, tmp_path, monkeypatch, policy
):
    """Its worker was killed after the last write, or another driver made it meanwhile."""
    corpus, out = make_recordings(), tmp_path / "out"

    def killed_late(tasks):
        for task, result in run_here(tasks):
            yield task, result and RuntimeError("signal 9")

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.corpus, "run_beside", killed_late)
        info = shard(corpus, out, policy)
    assert "failures" not in info and not failures(out)
    assert info["digest"] == shard(make_recordings("whole"), tmp_path / "undisturbed")["digest"]
