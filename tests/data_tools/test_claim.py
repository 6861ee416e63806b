"""Two drivers on one dataset: the later one finishes it, the earlier one stops, and nothing of either is lost."""

from __future__ import annotations

import json
import socket

import pytest

import data_tools.corpus
from data_tools.claim import claim, read_driver
from data_tools.corpus import shard_corpus
from data_tools.corpus_plan import _read_plan
from data_tools.drop import drop
from data_tools.folder import open_folder
from data_tools.forgotten import Forget, read_drops
from data_tools.shard_state import shard_state
from data_tools.sources import ShardSettings
from data_tools.validate import validate_dataset
from taudl_dist.dataset import storage
from taudl_dist.errors import UserError

SETTINGS = ShardSettings(interval_s=2.0, max_frames=4, crops_per_shard=4)


@pytest.fixture(params=["local", "remote"])
def out(request, object_store, tmp_path) -> str:
    return str(tmp_path / "my data") if request.param == "local" else object_store.uri(f"{tmp_path.name}/my data")


def test_the_one_before_is_told(out):
    folder = open_folder(out)
    assert read_driver(folder) is None
    first = claim(folder)
    first.check()
    second = claim(folder)
    with pytest.raises(UserError, match=rf"started on it after this one \({socket.gethostname()}, pid \d+, at 20"):
        first.check()
    second.check()
    second.release()
    with pytest.raises(UserError, match=r"driver\.json is gone"):
        second.check()
    folder.write("driver.json", b"{")
    assert read_driver(folder) is None


@pytest.mark.parametrize("after", [1, 4])
def test_a_second_driver_takes_over(make_corpus, out, tmp_path, monkeypatch, after):
    """It is started while the first has done some units, or all of them."""
    corpus = make_corpus()
    real = data_tools.corpus.run_beside

    def disturbed(tasks):
        yield from (step for step in real(tasks[:after]) if step[1] is None)
        with monkeypatch.context() as patched:
            patched.setattr(data_tools.corpus, "run_beside", real)
            shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS)
        yield from real(tasks[after:] or tasks[-1:])  # what the first had under way comes too late

    with monkeypatch.context() as patched:
        patched.setattr(data_tools.corpus, "run_beside", disturbed)
        with pytest.raises(UserError, match=r"driver\.json is gone: another `taudl shard` finished it"):
            shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS)
    info = shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS)
    assert info["digest"] == shard_corpus(corpus.videos, corpus.tracks, tmp_path / "one", settings=SETTINGS)["digest"]
    assert validate_dataset(out).problems == [] and "driver.json" not in open_folder(out).names()


def test_a_run_that_ends_by_itself_leaves_no_name(out):
    folder = open_folder(out)
    with pytest.raises(UserError, match="bad"), claim(folder).held():
        raise UserError("bad")
    assert read_driver(folder) is None
    with pytest.raises(UserError, match="bad"), claim(folder).held():
        later = claim(folder)
        raise UserError("bad")
    assert read_driver(folder) == later.driver
    with pytest.raises(KeyboardInterrupt), claim(folder).held():  # as killed
        raise KeyboardInterrupt
    assert read_driver(folder)


def test_a_drop_waits_for_the_driver(make_corpus, tmp_path):
    corpus, out = make_corpus(), tmp_path / "out"
    info = shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS)
    claim(open_folder(out))
    with pytest.raises(UserError, match="is at work in it, or was interrupted"):
        drop(out, Forget(cameras=("cam2",)), reason="")
    assert (
        shard_corpus(corpus.videos, corpus.tracks, out, settings=SETTINGS) == info
    )  # as after a kill in the last moment
    drop(out, Forget(cameras=("cam2",)), reason="")
    assert json.loads((out / "dataset.json").read_text())["digest"] != info["digest"]


def test_a_store_that_fails_is_not_taken_for_damage(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)
    folder = open_folder(object_store.uri(tmp_path.name))
    folder.write("plan.json", b"{}")
    object_store.fail("InternalError", method=None)
    for read in (read_driver, read_drops, shard_state, _read_plan):
        with pytest.raises(storage.StoreError, match=r"^s3://corpus/.*failed in 5 attempts"):
            read(folder)
