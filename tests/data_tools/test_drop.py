"""What is dropped is gone from every file, stays gone, and a drop that is killed anywhere leaves nothing that looks whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from data_tools.corpus import shard_corpus
from data_tools.corpus_plan import Policy
from data_tools.drop import drop, find_forgotten, resume_drop
from data_tools.forgotten import Forget, from_json
from data_tools.sources import ShardSettings
from data_tools.validate import validate_dataset
from taudl_dist.cli import main
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError

SPLITS = ("train", "query", "gallery")
SETTINGS = ShardSettings(interval_s=2.0, max_frames=4, crops_per_shard=10)


@pytest.fixture
def dataset(make_corpus, tmp_path) -> Path:
    corpus = make_corpus(truth_from=2)
    shard_corpus(corpus.videos, corpus.tracks, tmp_path / "data", settings=SETTINGS)
    return tmp_path / "data"


def rows(path: Path) -> list[dict]:
    return read_manifest(path, splits=SPLITS).to_pylist()


def sums(path: Path) -> dict[str, str]:
    files = sorted(file for file in (path / "shards").iterdir() if not file.name.endswith(".ok.json"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def everything(path: Path) -> bytes:
    return b"".join(
        file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file() and file.name != "drops.jsonl"
    )


def test_a_tracklet_is_gone_from_every_file(dataset):
    victim = next(row for row in rows(dataset) if row["split"] == "train" and row["camera"] == "cam2")
    before, digest = rows(dataset), open_dataset(dataset).digest
    reader = TrackletReader(open_dataset(dataset))
    jpegs = reader.read_sample(victim["shard"], victim["offset"], victim["length"]).jpegs
    was = everything(dataset)
    line = drop(dataset, Forget(keys=(victim["key"],)), reason="request 17")
    assert (line["tracklets"], line["images"], line["digest_before"]) == (1, 4, digest)
    left = everything(dataset)
    assert victim["key"].encode() not in left
    for jpeg in set(jpegs):  # the other camera shows the same picture of this painted person
        assert left.count(jpeg) == was.count(jpeg) - jpegs.count(jpeg)
    assert validate_dataset(dataset).problems == [] and open_dataset(dataset).digest == line["digest"] != digest
    kept = [row for row in before if row["key"] != victim["key"]]
    assert [(row["key"], row["split"]) for row in rows(dataset)] == [(row["key"], row["split"]) for row in kept]
    assert open_dataset(dataset).training.label.tolist() == [0, 1, 0]
    assert json.loads((dataset / "drops.jsonl").read_text()) == line and line["reason"] == "request 17"
    assert not (dataset / "drop.json").exists()


def test_a_camera_dropped_is_as_if_it_had_never_been(make_corpus, tmp_path):
    """The bytes are those of a corpus without it, and no later run brings it back."""
    corpus = make_corpus(cameras=3)
    shard_corpus(corpus.videos, corpus.tracks, tmp_path / "data", settings=SETTINGS)
    line = drop(tmp_path / "data", Forget(cameras=("cam2",)), reason="")
    again = shard_corpus(corpus.videos, corpus.tracks, tmp_path / "data", settings=SETTINGS)
    assert again["digest"] == line["digest"] and again["drops"] == 1
    for folder, end in ((corpus.videos, "mp4"), (corpus.tracks, "txt")):
        (folder / f"cam2.{end}").unlink()
    without = shard_corpus(corpus.videos, corpus.tracks, tmp_path / "without", settings=SETTINGS)
    assert without["digest"] == line["digest"] and sums(tmp_path / "without") == sums(tmp_path / "data")
    assert validate_dataset(tmp_path / "data").problems == []


def test_a_time_range_takes_whole_tracklets_that_touch_it(dataset):
    before = rows(dataset)
    drop(dataset, Forget(cameras=("cam1",), from_s=2.9, to_s=3.0), reason="")
    gone = {row["key"] for row in before} - {row["key"] for row in rows(dataset)}
    assert gone == {
        row["key"] for row in before if row["camera"] == "cam1" and row["end_s"] >= 2.9 and row["start_s"] <= 3.0
    }
    assert len(gone) == 2


def test_what_was_dropped_does_not_come_with_later_work(make_recordings, tmp_path, monkeypatch):
    """A unit that failed, and files that are added later, obey the drops before them."""
    import data_tools.units

    begin_s, settings = 1769846400.0, ShardSettings(interval_s=2.0, max_frames=4, window_s=600.0)
    corpus, out = make_recordings(files=range(2)), tmp_path / "out"
    about = {"settings": settings, "start_pattern": "{camera}/%Y%m%d_%H%M%S"}

    def broken(*_args, **_kwargs):
        raise UserError("damaged")

    with monkeypatch.context() as patched:
        real = data_tools.units.iter_pictures
        patched.setattr(
            data_tools.units, "iter_pictures", lambda path, **k: (broken if "081000" in str(path) else real)(path, **k)
        )
        shard_corpus(corpus.videos, corpus.tracks, out, policy=Policy(max_failed_share=0.5), **about)
    drop(
        out, Forget(from_s=begin_s + 3.0, to_s=begin_s + 3600.0), reason=""
    )  # all but the first person of either camera
    retry = Policy(retry_failed=True)
    assert shard_corpus(corpus.videos, corpus.tracks, out, policy=retry, **about)["splits"]["train"]["tracklets"] == 2
    make_recordings()
    grown = shard_corpus(corpus.videos, corpus.tracks, out, policy=Policy(extend=True), **about)
    assert grown["splits"]["train"]["tracklets"] == 2 and validate_dataset(out).problems == []


class Killed(BaseException):
    """As SIGKILL: no `except Exception` of the code under test stops it."""


def kill_at(patched: pytest.MonkeyPatch, number: int) -> list[int]:
    """Every change of the file system counts; from the given one on nothing changes any more."""
    count = [0]
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def change(self, *args, real=real, **kwargs):
            count[0] += 1
            if count[0] > number:
                raise Killed
            return real(self, *args, **kwargs)

        patched.setattr(Path, name, change)
    return count


def test_killed_at_any_change_it_can_go_on(dataset, tmp_path, monkeypatch):
    keys = [row["key"] for row in rows(dataset) if row["label"] == 0 or row["split"] == "query"]
    forget, old = Forget(keys=tuple(keys)), open_dataset(dataset).digest
    undisturbed = shutil.copytree(dataset, tmp_path / "undisturbed")
    digest = drop(undisturbed, forget, reason="")["digest"]
    number, states = 0, set()
    while True:
        copy = shutil.copytree(dataset, tmp_path / str(number))
        with monkeypatch.context() as patched:
            kill_at(patched, number)
            with contextlib.suppress(Killed):
                drop(copy, forget, reason="")
                break
        states.add(_state(copy, old, digest))
        if (copy / "drop.json").exists():
            resume_drop(copy)
        else:
            drop(copy, forget, reason="")
        assert open_dataset(copy).digest == digest and sums(copy) == sums(undisturbed), number
        assert validate_dataset(copy).problems == [] and not list(copy.rglob("*.tmp-*"))
        assert len((copy / "drops.jsonl").read_text().splitlines()) == 1
        shutil.rmtree(copy)
        number += 1
    assert number > 20 and states == {"old", "none", "new"}


def _state(path: Path, old: str, new: str) -> str:
    """A reader finds the old dataset, the new one, or none; and what it finds is whole."""
    try:
        found = open_dataset(path).digest
    except UserError as error:
        assert "a drop was interrupted" in str(error)
        return "none"
    assert [problem for problem in validate_dataset(path).problems if "tmp-" not in problem] == []
    return {old: "old", new: "new"}[found]


def test_shard_waits_for_a_drop(make_corpus, tmp_path, monkeypatch):
    corpus, out = make_corpus(), tmp_path / "data"
    shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS)
    with monkeypatch.context() as patched:
        kill_at(patched, 8)
        with pytest.raises(Killed):
            drop(out, Forget(cameras=("cam1",)), reason="")
    for call in (
        lambda: shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS),
        lambda: drop(out, Forget(cameras=("cam2",)), reason=""),
    ):
        with pytest.raises(UserError, match=r"a drop was interrupted; run `taudl drop .* --resume`"):
            call()


REFUSED = [
    ({"cameras": ("cam9",)}, "--camera cam9: not in"),
    ({"keys": ("nobody",)}, "--tracklet nobody: not in"),
    ({"from_s": 1e9}, "nothing in it lies in that range"),
    ({"from_s": 0.0}, "that is everything in it"),
    ({"cameras": ("cam1", "cam2")}, "that is everything in it"),
]


@pytest.mark.parametrize(("what", "message"), REFUSED)
def test_what_is_refused_changes_nothing(dataset, what, message):
    before = everything(dataset)
    with pytest.raises(UserError, match=message):
        drop(dataset, Forget(**what), reason="")
    assert everything(dataset) == before


@pytest.mark.parametrize(
    "what", [{}, {"keys": ("k",), "cameras": ("c",)}, {"from_s": 5.0, "to_s": 4.0}, {"from_s": float("nan")}]
)
def test_contradictions(what):
    with pytest.raises(UsageError):
        Forget(**what)


def test_json_and_back():
    for forget in (Forget(cameras=("a", "b"), to_s=4.5), Forget(keys=("k",)), Forget(from_s=1.0)):
        assert from_json(json.loads(json.dumps(forget.to_json()))) == forget


def test_the_command(dataset, capsys):
    assert main(["drop", str(dataset), "--camera", "cam1", "--dry-run"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["camera"] for row in listed} == {"cam1"} and "cam1" in open_dataset(dataset).cameras
    assert find_forgotten(dataset, Forget(cameras=("cam1",))).num_rows == len(listed)
    assert main(["drop", str(dataset), "--from-time", "soon"]) == 1
    assert main(["drop", str(dataset), "--resume"]) == 1
    assert main(["drop", str(dataset)]) == 2 and main(["drop", str(dataset), "--resume", "--camera", "cam1"]) == 2
    capsys.readouterr()
    assert main(["drop", str(dataset), "--camera", "cam1", "--to-time", "1970-01-01T00:00:00Z", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tracklets"] == 1
    assert main(["drop", "s3://bucket/data", "--camera", "cam1"]) == 1
