"""Sharding from an object store into one: the digest of a local run, whatever the network does and whoever is killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import psutil
import pytest

from data_tools.commits import read_commits
from data_tools.corpus import shard_corpus
from data_tools.corpus_plan import Policy
from data_tools.drop import drop
from data_tools.folder import RemoteFolder, open_folder
from data_tools.forgotten import Forget
from data_tools.sources import ShardSettings
from data_tools.validate import validate_dataset
from taudl_dist.cli import main
from taudl_dist.dataset import open_dataset, read_manifest, storage
from taudl_dist.errors import UserError

SETTINGS = ShardSettings(interval_s=2.0, max_frames=4, crops_per_shard=4)
FLAGS = ["--interval-s", "2", "--max-frames", "4", "--crops-per-shard", "4"]
SPLITS = ("train", "query", "gallery")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)


class Places:
    """A corpus, and its copy in a store, where there is also room for a dataset."""

    def __init__(self, corpus, store, name: str) -> None:
        self.corpus, self.store, self.name = corpus, store, name
        store.upload(corpus.videos.parent, f"{name}/in")
        self.videos, self.tracks, self.out = (store.uri(f"{name}/{part}") for part in ("in/videos", "in/tracks", "out"))

    def shard(self, **more):
        return shard_corpus(self.videos, self.tracks, self.out, **{"settings": SETTINGS, **more})

    def local(self, out: Path, **more):
        return shard_corpus(self.corpus.videos, self.corpus.tracks, out, **{"settings": SETTINGS, **more})

    def objects(self) -> dict[str, int]:
        return self.store.objects(f"{self.name}/out")

    def info(self) -> dict:
        return json.loads(self.store.get(f"{self.name}/out/dataset.json"))

    def stems(self) -> set[str]:
        """The attempts that dataset.json names."""
        return {shard["file"].removesuffix(".tar") for shard in self.info()["shards"]}

    def check_whole(self) -> None:
        """Nothing is there that the dataset does not need, and nothing is missing."""
        expected = {f"shards/{stem}{end}" for stem in self.stems() for end in (".tar", ".tar.idx", ".ok.json")}
        expected |= {f"fragments/{stem}.parquet" for stem in self.stems()}
        expected |= {"dataset.json", "plan.json", "tracklets.arrow", "tracklets.parquet"}
        assert set(self.objects()) == expected

    def writes(self) -> int:
        return sum(count for (method, _), count in self.store.requests.items() if method not in ("GET", "HEAD"))


@pytest.fixture
def places(make_corpus, object_store, tmp_path) -> Places:
    """Two cameras, and people for testing: eight units."""
    return Places(make_corpus(truth_from=2), object_store, tmp_path.name)


def test_the_digest_of_a_local_run(places, tmp_path, capsys):
    local = places.local(tmp_path / "out")
    remote = places.shard()
    differing = {name for name in local if local[name] != remote[name]}
    assert remote["digest"] == local["digest"] and differing == {"shards"}
    assert [{**shard, "file": None} for shard in remote["shards"]] == [
        {**shard, "file": None} for shard in local["shards"]
    ]
    assert read_manifest(places.out, splits=SPLITS).equals(read_manifest(tmp_path / "out", splits=SPLITS))
    places.check_whole()
    report = validate_dataset(places.out)
    assert report.problems == [] and report.shards == len(local["shards"])

    places.store.reset()
    capsys.readouterr()
    assert places.shard() == remote and places.writes() == 0
    said = capsys.readouterr().err
    assert "finished already" in said and f"s3://corpus/{places.name}/in/tracks: copied to" in said
    with pytest.raises(UserError, match=r"settings\.max_frames = 4, now it is 5"):
        places.shard(settings=ShardSettings(interval_s=2.0, max_frames=5, crops_per_shard=4))

    copy = tmp_path / "copy"  # as a user downloads it
    for key in places.objects():
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(places.store.get(f"{places.name}/out/{key}"))
    assert validate_dataset(copy).problems == [] and open_dataset(copy).digest == local["digest"]
    assert shard_corpus(places.corpus.videos, places.corpus.tracks, copy, settings=SETTINGS) == remote
    forget = Forget(cameras=("cam2",))
    assert drop(copy, forget, reason="")["digest"] == drop(tmp_path / "out", forget, reason="")["digest"]
    assert validate_dataset(copy).problems == [] and not list(copy.rglob("*--*"))
    with pytest.raises(UserError, match="drop from a local copy"):
        drop(places.out, forget, reason="")


def test_every_request_fails_now_and_then(places, tmp_path):
    """The first request of a kind to an object, or the second, is refused, cut off, shortened, or never answered."""
    faults = ("SlowDown", "InternalError", "close", "short", None)

    def chosen(method, key, count):
        draw = zlib.crc32(f"{method}{key.split('--')[0]}{count}".encode())
        return faults[draw % len(faults)] if count < 2 else None

    expected = places.local(tmp_path / "out")["digest"]
    places.store.fault = chosen
    assert places.shard()["digest"] == expected
    places.store.reset()
    places.check_whole()
    assert validate_dataset(places.out).problems == []


def test_a_store_that_refuses_writes_stops_the_work(places, tmp_path):
    def refused(method, key, _count):
        tars = {name for made, name in places.store.requests if made == "PUT" and name.endswith(".tar")}
        return "AccessDenied" if method == "PUT" and key.endswith(".tar") and len(tars) >= 2 else None

    places.store.fault = refused
    with pytest.raises(
        UserError, match=r"cannot be written to any more(.|\n)*access refused(.|\n)*2 of 8 units are done"
    ):
        places.shard(policy=Policy(max_failed_share=0.9))
    places.store.reset()
    kept = {key for key in places.objects() if key.endswith(".ok.json")}
    assert len(kept) == 2
    with pytest.raises(UserError, match="not finished"):
        open_dataset(places.out)
    assert places.shard()["digest"] == places.local(tmp_path / "out")["digest"]
    assert kept <= set(places.objects())
    places.check_whole()


@pytest.mark.parametrize("policy", [None, Policy(max_failed_share=0.5)])
def test_a_store_that_refuses_from_the_beginning(places, policy):
    places.store.fail("AccessDenied", method="PUT")
    with pytest.raises(UserError, match=r"access refused.*what they may write"):
        places.shard(policy=policy)
    assert places.objects() == {}


def test_a_video_that_cannot_be_fetched_costs_its_units_and_nothing_else(places, tmp_path):
    """Not its tracklets one by one: they are not damaged, and the unit is tried again."""
    video = f"{places.name}/in/videos/cam1.mp4"

    def broken(_method, key, _count):
        has_plan = any(name.endswith("out/plan.json") and made == "PUT" for made, name in places.store.requests)
        return "InternalError" if key == video and has_plan else None

    places.store.fault = broken
    with pytest.raises(UserError, match=r"4 of 8 units failed(.|\n)*cam1\.mp4, offset \d+.*failed in 5 attempts"):
        places.shard()
    places.store.reset()
    assert places.shard()["digest"] == places.local(tmp_path / "out")["digest"]


def test_a_name_that_is_no_bucket_or_holds_something_else(places):
    uri = places.out.replace("corpus", "nobody")
    with pytest.raises(UserError, match="no such bucket"):
        shard_corpus(places.videos, places.tracks, uri, settings=SETTINGS)
    with pytest.raises(UserError, match="holds something else"):
        shard_corpus(places.videos, places.tracks, places.store.uri(f"{places.name}/in"), settings=SETTINGS)
    with pytest.raises(UserError, match=r"cam1\.mp4: is a file"):
        shard_corpus(
            places.videos, places.tracks, places.store.uri(f"{places.name}/in/videos/cam1.mp4"), settings=SETTINGS
        )
    with pytest.raises(UserError, match="no such folder, or an empty one"):
        shard_corpus(places.store.uri("nothing"), places.tracks, places.out, settings=SETTINGS)
    with pytest.raises(UserError, match=rf"s3://corpus/{places.name}/in/none") as caught:
        shard_corpus(places.videos, places.store.uri(f"{places.name}/in/none"), places.out, settings=SETTINGS)
    assert "taudl-tracks-" not in str(caught.value) and places.objects() == {}


def test_of_two_attempts_at_a_unit_one_is_taken(places, tmp_path, monkeypatch):
    """Both were completed: nothing of the loser is left, and one that comes too late changes nothing."""
    import data_tools.corpus

    real, tasks = data_tools.corpus.run_beside, []

    def twice(todo):
        tasks.extend(todo)
        list(real(todo))
        return real(todo)

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.corpus, "run_beside", twice)
        info = places.shard()
    assert info["digest"] == places.local(tmp_path / "out")["digest"]
    places.check_whole()
    late = f"{places.name}/out/shards/{tasks[0].unit}--00000000"
    record = json.loads(places.store.get(f"{places.name}/out/shards/{sorted(places.stems())[0]}.ok.json"))
    record["shard"]["file"] = f"{tasks[0].unit}--00000000.tar"
    places.store.put(
        f"{late}.ok.json", json.dumps(record).encode()
    )  # its tar was deleted when the dataset was finished
    assert places.shard() == info
    places.check_whole()


def test_failures_are_tried_again_and_the_better_attempt_is_taken(places, tmp_path, monkeypatch):
    import data_tools.units

    real = data_tools.units.iter_pictures

    def damaged(source, **kwargs):
        for index, picture in real(source, **kwargs):
            if str(source).endswith("cam1.mp4") and index >= 40:
                raise UserError(f"{source}: damaged or cut off at frame {index}")
            yield index, picture

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.units, "iter_pictures", damaged)
        info = places.shard(policy=Policy(max_failed_share=0.9))
    assert info["failures"]["units"] and "failures.json" in places.objects()
    assert places.shard() == info
    mended = places.shard(policy=Policy(retry_failed=True))
    assert mended["digest"] == places.local(tmp_path / "out")["digest"]
    places.check_whole()


def test_cameras_of_many_files_grow(make_recordings, object_store, tmp_path):
    settings = ShardSettings(interval_s=2.0, max_frames=4, window_s=600.0)
    about = {"settings": settings, "start_pattern": "{camera}/%Y%m%d_%H%M%S"}
    make_recordings(files=range(2))
    places = Places(make_recordings(files=range(2)), object_store, tmp_path.name)
    places.shard(**about)
    kept = set(places.objects()) - {"dataset.json", "plan.json", "tracklets.arrow", "tracklets.parquet"}
    corpus = make_recordings(files=range(3), per_camera=False)
    places.store.upload(corpus.videos.parent, f"{places.name}/in")
    with pytest.raises(UserError, match="run with --extend to add them"):
        places.shard(**about)
    grown = places.shard(policy=Policy(extend=True), **about)
    assert grown["digest"] == places.local(tmp_path / "out", **about)["digest"]
    assert kept <= set(places.objects())
    places.check_whole()


def test_the_command(places, tmp_path, capsys):
    flags = ["--videos", places.videos, "--tracks", places.tracks, "--out", places.out, *FLAGS]
    assert main(["shard", *flags, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert dry["units_to_do"] == 8 and dry["frames_to_decode"] > 0 and places.objects() == {}
    assert main(["shard", *flags]) == 0
    assert f"dataset  {places.out}" in capsys.readouterr().out
    assert main(["info", places.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == places.info()["digest"]
    assert main(["shard", *flags, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_finished"]
    assert main(["status", places.out, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["done"], status["units"], status["driver"]) == ("finished", 8, 8, None)
    assert "?" not in status["dataset"]
    assert main(["preview", places.out, "--out", str(tmp_path / "preview.html")]) == 0
    assert "<title>taudl preview: out</title>" in (tmp_path / "preview.html").read_text()
    mixed = ["--videos", str(places.corpus.videos), "--tracks", places.tracks, "--out", str(tmp_path / "mixed"), *FLAGS]
    assert main(["shard", *mixed]) == 0
    assert open_dataset(tmp_path / "mixed").digest == places.info()["digest"]


def test_one_file_of_tracks_and_a_truth_elsewhere(places, tmp_path):
    rows = [
        f"{camera.stem},{track - 1},{frame - 1},{x},{y},{x + w},{y + h}\n"
        for camera in sorted(places.corpus.tracks.iterdir())
        for frame, track, x, y, w, h in (map(int, line.split(",")[:6]) for line in camera.read_text().splitlines())
    ]
    table = tmp_path / "all.csv"
    table.write_text("camera,track,frame,x1,y1,x2,y2\n" + "".join(rows))
    places.store.put(f"{places.name}/other/all.csv", table.read_bytes())
    places.store.upload(places.corpus.truth, f"{places.name}/people")
    truth = places.store.uri(f"{places.name}/people")
    info = shard_corpus(
        places.videos, places.store.uri(f"{places.name}/other/all.csv"), places.out, settings=SETTINGS, truth=truth
    )
    local = shard_corpus(
        places.corpus.videos, table, tmp_path / "out", settings=SETTINGS, truth=str(places.corpus.truth)
    )
    assert info["digest"] == local["digest"] and info["splits"]["query"]["tracklets"]


@pytest.mark.parametrize("way", ["/{outside}", "../{outside}", "deep/../../{outside}"])
def test_names_that_lead_out_of_the_folder_of_copies(places, tmp_path, way):
    name = way.format(outside=f"{tmp_path}/outside.txt".lstrip("/"))
    places.store.put(f"{places.name}/in/tracks/{name}", b"1,1,1,1,9,9,1,-1,-1,-1\n")
    with pytest.raises(UserError, match="leads out of its folder"):
        places.shard()
    assert not (tmp_path / "outside.txt").exists() and places.objects() == {}


def test_a_folder_of_a_store_is_opened_anew_in_another_process(places):
    import pickle

    folder = open_folder(places.out)
    assert isinstance(folder, RemoteFolder) and pickle.loads(pickle.dumps(folder)) == folder
    assert read_commits(folder, {}) == {} and folder.names("shards") == {}


@pytest.mark.slow
def test_kills_change_nothing(make_corpus, object_store, tmp_path):
    """A Ray worker, its driver, and the driver of one process are killed; what was committed is not written again."""
    places = Places(make_corpus(people=8), object_store, tmp_path.name)
    flags = ["--videos", places.videos, "--tracks", places.tracks, "--out", places.out, *FLAGS]
    draw, committed = random.Random(3), set()

    def done() -> set[str]:
        return {key for key in places.objects() if key.endswith(".ok.json")}

    for workers, mark in ((2, "ray::make_unit"), (1, "")):
        words = [sys.executable, "-m", "taudl_dist.cli", "shard", *flags, "--workers", str(workers)]
        with (tmp_path / "log").open("a") as log:
            driver = subprocess.Popen(words, stderr=log, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
        goal = len(committed) + 1 + draw.randrange(3)
        while len(done()) < goal and driver.poll() is None:
            time.sleep(0.05)
        assert driver.poll() is None, (tmp_path / "log").read_text()[-2000:]
        if mark:
            children = psutil.Process(driver.pid).children(recursive=True)
            next(one for one in children if one.name().startswith(mark)).kill()
            time.sleep(0.2)
        driver.kill()
        driver.wait()
        assert committed < done()
        committed = done()
    assert places.shard()["digest"] == places.local(tmp_path / "out")["digest"]
    assert {f"shards/{stem}.ok.json" for stem in places.stems()} >= committed
    places.check_whole()
