"""Over real HTTP, against an S3 server that misbehaves on request."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from taudl_dist.config import StorageConfig
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest, storage
from taudl_dist.dataset.location import absolute, is_remote, local_path, name
from taudl_dist.dataset.storage import TransientError, WriteError, open_storage, within
from taudl_dist.errors import UsageError, UserError
from tests import google_storage

TRANSIENT = ["SlowDown", "InternalError", "close", "short", "garbage"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def uploaded(unchanged_path, object_store):
    """The local dataset, the URI of its copy, and its extents as (shard, offset, length)."""
    if not object_store.has("data/set/dataset.json"):
        object_store.upload(unchanged_path, "data/set")
    local = open_dataset(unchanged_path)
    index = local.training
    extents = list(zip(index.shard.tolist(), index.offset.tolist(), index.length.tolist()))
    return local, object_store.uri("data/set"), extents


@pytest.fixture
def changeable(uploaded, object_store):
    """The same, in a copy of its own."""
    local, _, extents = uploaded
    return local, object_store.upload(local.path, "data/changed"), extents


def test_everything_equals_the_local_dataset(uploaded):
    local, uri, extents = uploaded
    remote = open_dataset(uri)
    assert (remote.digest, remote.cameras, remote.shards, remote.info) == (
        local.digest, local.cameras, local.shards, local.info,
    )  # fmt: skip
    for column in ("camera_offsets", "label", "shard", "offset", "length", "num_frames"):
        assert (getattr(remote.training, column) == getattr(local.training, column)).all()
    here, there = TrackletReader(local), TrackletReader(remote)
    assert [here.read(*extent) for extent in extents] == [there.read(*extent) for extent in extents]
    assert list(here.stream(extents)) == list(there.stream(extents)) == [here.read(*extent) for extent in extents]
    assert here.read_sample(*extents[0]) == there.read_sample(*extents[0])
    assert read_manifest(uri).equals(read_manifest(local)) and read_manifest(remote).equals(read_manifest(local))


def test_file_uris_are_local(dataset_path):
    dataset = open_dataset(f"file://{dataset_path}")
    assert (dataset.path, dataset.storage) == (dataset_path, None)


def test_index_and_manifest_are_fetched_once(uploaded, object_store):
    _, uri, _ = uploaded
    for _ in range(3):
        read_manifest(open_dataset(uri))
    counts = {key.rsplit("/")[-1]: n for (method, key), n in object_store.requests.items() if method == "GET"}
    assert counts == {
        "dataset.json": 5,
        "tracklets.arrow": 1,
        "tracklets.parquet": 1,
    }  # twice more to see that it stayed


def test_a_damaged_copy_of_the_index_is_fetched_again(uploaded):
    local, uri, _ = uploaded
    copy = open_dataset(uri).file("tracklets.arrow")
    copy.write_bytes(copy.read_bytes()[:100])
    assert len(open_dataset(uri).training) == len(local.training)


def test_a_dataset_replaced_while_it_is_opened_is_refused(changeable, object_store):
    _, uri, _ = changeable

    def replace(method, key, count):
        if method == "GET" and key.endswith("tracklets.arrow") and not count:
            object_store.put("data/changed/dataset.json", b"{}")

    object_store.fault = replace
    with pytest.raises(UserError, match="replaced while it was opened"):
        open_dataset(uri)


@pytest.mark.parametrize("fault", TRANSIENT)
def test_passing_faults_are_healed_and_counted(uploaded, object_store, fault):
    local, uri, extents = uploaded
    remote = open_dataset(uri)
    object_store.fail(fault, suffix=".tar", times=2)
    reader = TrackletReader(remote)
    assert [reader.read(*extent) for extent in extents] == [TrackletReader(local).read(*extent) for extent in extents]
    stats = reader.remote.stats
    asked = 2 if fault == "short" else 1  # requests of an attempt, see Storage._read
    assert stats.retries == 2 // asked * len({extent[0] for extent in extents})
    assert stats.used_bytes == sum(extent[2] for extent in extents) and stats.tracklets == len(extents)
    assert stats.fetched_bytes >= stats.used_bytes


@pytest.mark.parametrize("data", [b"", b"x", b"\xa5", b"\x5a", b"a\xa5", bytes(range(256)) * 3], ids=len)
def test_a_short_answer_is_never_taken_as_whole(object_store, data):
    """pyarrow takes it as whole; a byte that happens to be what the memory was filled with is no cut."""
    object_store.put("short/x", data)
    storage = open_storage(object_store.uri("short"), StorageConfig(attempts=3))
    assert storage.read_file("x") == data
    assert storage.stats.retries == 0
    object_store.fail("short")
    if data:
        with pytest.raises(UserError, match="received"):
            storage.read_file("x")


@pytest.mark.parametrize("fault", ["SlowDown", "close", "short"])
def test_faults_while_opening_are_healed(uploaded, object_store, fault):
    local, uri, _ = uploaded
    object_store.fail(fault, method=None, times=1)
    assert len(read_manifest(open_dataset(uri))) == len(read_manifest(local))


@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_an_answer_that_does_not_come_is_given_up(uploaded, object_store, fault, monkeypatch):
    """On a busy machine others may be, too."""
    local, uri, extents = uploaded
    monkeypatch.setattr(object_store, "stall_s", 5.0)
    remote = open_dataset(uri, StorageConfig(timeout_s=0.9))
    object_store.fail(fault, times=1)
    assert TrackletReader(remote).read(*extents[0]) == TrackletReader(local).read(*extents[0])
    assert remote.storage.stats.retries >= 1


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_fault_that_stays_names_place_attempts_and_remedy(uploaded, object_store, fault):
    _, uri, extents = uploaded
    remote = open_dataset(uri, StorageConfig(attempts=3))
    object_store.fail(fault)
    shard, offset, _ = extents[1]
    with pytest.raises(
        UserError,
        match=rf"s3://corpus/data/set/shards/{remote.shards[shard]}, offset {offset}, .*3 attempts.*storage\.attempts",
    ):
        TrackletReader(remote).read(*extents[1])
    assert remote.storage.stats.retries == 2


@pytest.mark.parametrize(
    ("method", "fault", "message"),
    [
        ("HEAD", "AccessDenied", "access refused.*AWS_PROFILE"),
        ("GET", "AccessDenied", "access refused.*AWS_PROFILE"),
        ("HEAD", "NoSuchKey", "no such object.*uploaded"),
        ("GET", "NoSuchKey", "no such object.*uploaded"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(uploaded, object_store, method, fault, message):
    _, uri, extents = uploaded
    remote = open_dataset(uri)
    object_store.fail(fault, method=method)
    with pytest.raises(UserError, match=f"s3://corpus/data/set/shards/.*{message}"):
        TrackletReader(remote).read(*extents[0])
    assert remote.storage.stats.retries == 0


@pytest.mark.parametrize("folder", ["nothing/here", "", "data/set/shards"])
def test_a_folder_without_a_dataset(object_store, folder):
    with pytest.raises(UserError, match=r"dataset\.json: no such object"):
        open_dataset(object_store.uri(folder))


def test_a_bucket_that_does_not_exist(object_store):
    with pytest.raises(UserError, match="no such object; check bucket"):
        open_dataset(object_store.uri("x").replace("corpus", "no-such-bucket"))


def test_nobody_answers():
    with pytest.raises(UserError, match=r"s3://corpus/x/dataset\.json: failed in 2 attempts"):
        open_dataset("s3://corpus/x?endpoint_override=http://127.0.0.1:1&region=r", StorageConfig(attempts=2))


def test_a_shard_of_another_size_is_refused(changeable, object_store):
    _, uri, extents = changeable
    remote = open_dataset(uri)
    object_store.put(f"data/changed/shards/{remote.shards[extents[0][0]]}", b"x" * 5000)
    with pytest.raises(UserError, match=r"5000 bytes, expected \d+; the file is cut off or was replaced"):
        TrackletReader(remote).read(*extents[0])


@pytest.mark.parametrize("bad", [(99, 0, 2048), (-1, 0, 2048), (0, -512, 2048), (0, 0, 10**12), (0, 0, 512)])
def test_extents_outside_their_shard_ask_for_nothing(uploaded, object_store, bad):
    _, uri, _ = uploaded
    reader = TrackletReader(open_dataset(uri))
    object_store.reset()
    with pytest.raises(UserError, match="taudl validate"):
        reader.read(*bad)
    with pytest.raises(UserError, match="taudl validate"):
        list(reader.stream([bad]))
    assert not object_store.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "../../../outside"}, "is not a sha256"),
        ({"digest": "f" * 63 + "/"}, "is not a sha256"),
        ({"shards": [{"name": "../../x.tar", "bytes": 1, "sha256": "0"}]}, "not a plain file name"),
        ({"shards": [{"name": "/etc/passwd", "bytes": 1, "sha256": "0"}]}, "not a plain file name"),
    ],
)
def test_a_hostile_dataset_cannot_leave_the_cache_folder(changeable, object_store, tmp_path, change, message):
    local, uri, _ = changeable
    object_store.put("data/changed/dataset.json", json.dumps({**local.info, **change}).encode())
    before = {path for path in tmp_path.rglob("*") if "xdg" not in path.parts}
    with pytest.raises(UserError, match=message):
        open_dataset(uri)
    assert {path for path in tmp_path.rglob("*") if "xdg" not in path.parts} == before


def test_streams_join_neighbours_and_bound_their_requests(uploaded, object_store):
    _, uri, extents = uploaded
    remote = open_dataset(uri, StorageConfig(requests=2))
    object_store.reset()
    assert len(list(TrackletReader(remote).stream(sorted(extents)))) == len(extents)
    gets = sum(n for (method, key), n in object_store.requests.items() if method == "GET")
    assert gets == len({extent[0] for extent in extents}) < len(extents)
    assert object_store.busiest <= 2


def test_a_stream_that_is_left_ends_its_threads(uploaded):
    _, uri, extents = uploaded
    stream = TrackletReader(open_dataset(uri)).stream(extents)
    next(stream)
    assert any(thread.name == "taudl-fetch" for thread in threading.enumerate())
    stream.close()  # waits a second for them, which a busy machine may not do with
    deadline = time.monotonic() + 30
    while any(thread.name == "taudl-fetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


URIS = [
    # uri, message, remark
    ("s3://key:secret@bucket/x", "secret before the bucket", "credentials"),
    ("s3://bucket/x?access_key=secret", "unknown option 'access_key'", "credentials as options"),
    ("s3:///x", "expected s3://BUCKET/FOLDER", "no bucket"),
    ("s3://bucket/../x", "expected s3://BUCKET/FOLDER", "a way up"),
    ("s3://bucket/x#y", "expected s3://BUCKET/FOLDER", "a fragment"),
    ("s3://bucket/x?anonymous=maybe", "expected true or false", "a truth value"),
    ("http://host/x", "scheme 'http', expected", "another scheme"),
    ("gs://bucket/x?region=r", "unknown option 'region'", "an option of the other store"),
]


@pytest.mark.parametrize(("uri", "message"), [row[:2] for row in URIS], ids=[row[2] for row in URIS])
def test_uris_that_are_refused(uri, message):
    with pytest.raises(UsageError, match=message) as caught:
        open_dataset(uri)
    assert "=secret" not in str(caught.value) and ":secret" not in str(caught.value)


def test_names_of_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [is_remote(data) for data in ("s3://b/x", "GS://b/x", "x", "/x", "file:///x", tmp_path)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    assert (absolute("x"), absolute("file:///a%20b")) == (str(tmp_path / "x"), "/a b")
    assert absolute("s3://b/x?region=r") == "s3://b/x?region=r"
    assert [name(data) for data in ("s3://b/x/y?endpoint_override=http://h:1/", "s3://b", "/x/z")] == ["y", "b", "z"]
    with pytest.raises(UsageError, match="three slashes"):
        local_path("file://host/x")


def test_the_endpoint_may_come_from_the_environment(uploaded, object_store, monkeypatch):
    local, _, _ = uploaded
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    assert open_dataset("s3://corpus/data/set?region=us-east-1").digest == local.digest
    assert open_dataset("s3://corpus/data/set").digest == local.digest


def test_google_storage(unchanged_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    server = [sys.executable, str(Path(google_storage.__file__)), str(unchanged_path.parent.parent)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            bucket = f"gs://{unchanged_path.parent.name}"
            options = f"?endpoint_override=http://127.0.0.1:{port}&anonymous=true"
            local, remote = open_dataset(unchanged_path), open_dataset(f"{bucket}/{unchanged_path.name}{options}")
            index = local.training
            extents = list(zip(index.shard.tolist(), index.offset.tolist(), index.length.tolist()))
            reader = TrackletReader(remote)
            assert list(reader.stream(extents)) == list(TrackletReader(local).stream(extents))
            assert reader.remote.stats.retries > 0
            assert read_manifest(remote).equals(read_manifest(local))
            with pytest.raises(UserError, match=f"{bucket}/nothing/dataset.json: no such object"):
                open_dataset(f"{bucket}/nothing{options}")
        finally:
            process.kill()


def test_within_returns_raises_and_gives_up():
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    with pytest.raises(TransientError, match=r"within 0\.05 s"):
        within(0.05, lambda: time.sleep(0.5))


def test_settings_are_checked():
    for wrong in ({"cache_bytes": 0}, {"ahead_steps": 0}, {"requests": 0}, {"attempts": 0}, {"timeout_s": 0.0}):
        with pytest.raises(UsageError, match=f"storage.{next(iter(wrong))}"):
            dataclasses.replace(StorageConfig(), **wrong)


@pytest.mark.parametrize("size", [0, 1, 100, 5 * 2**20])
def test_what_is_written_is_there_whole(object_store, tmp_path, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    target = open_storage(object_store.uri(f"write/{tmp_path.name}"), StorageConfig())
    target.write_file("a", data)
    target.write_file("b", tmp_path / "file")
    target.write_file("deep/c", tmp_path / "file", is_own=True)
    assert target.files() == {"a": size, "b": size} and target.entries() == {"a", "b", "deep"}
    assert target.files(recursive=True) == {"a": size, "b": size, "deep/c": size}
    assert [target.size(name) for name in ("a", "deep/c", "nothing", "deep")] == [size, size, None, None]
    assert target.read_file("b") == data
    for gone in ("a", "a", "nothing"):
        target.delete(gone)
    assert target.files() == {"b": size}


@pytest.mark.parametrize("fault", ["SlowDown", "InternalError", "close"])
def test_passing_faults_of_writes_are_healed(object_store, tmp_path, fault):
    target = open_storage(object_store.uri(f"heal/{tmp_path.name}"), StorageConfig())
    object_store.fail(fault, method=None, times=1)
    target.write_file("small", b"x" * 100)
    target.write_file("large", b"y" * (5 * 2**20))
    target.delete("small")
    object_store.reset()
    assert target.files() == {"large": 5 * 2**20}


def test_an_upload_that_breaks_off_is_never_seen_under_its_name(object_store, tmp_path):
    """One of its parts fails in every attempt; what stood there before stays."""
    target = open_storage(object_store.uri(f"broken/{tmp_path.name}"), StorageConfig(attempts=2))
    target.write_file("plan", b"old")
    object_store.fault = lambda method, key, count: (
        "InternalError" if method == "PUT" and "plan.tmp-" in key and count % 2 else None
    )
    with pytest.raises(WriteError, match=r"plan\.tmp-.*failed in 2 attempts"):
        target.write_file("plan", b"new" * (4 * 2**20))
    object_store.reset()
    assert target.read_file("plan") == b"old"


def test_a_write_that_is_refused_says_what_to_check(object_store, tmp_path):
    target = open_storage(object_store.uri(f"refused/{tmp_path.name}"), StorageConfig())
    object_store.fail("AccessDenied", method="PUT")
    with pytest.raises(WriteError, match=r"access refused.*what they may write"):
        target.write_file("x", b"x")
    assert target.stats.retries == 0
    object_store.reset()
    with pytest.raises(WriteError, match="no such bucket; make it first"):
        open_storage(object_store.uri("x").replace("corpus", "nobucket"), StorageConfig()).write_file("x", b"x")


def test_a_write_that_is_not_answered_is_given_up(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "stall_s", 5.0)
    target = open_storage(object_store.uri(f"silent/{tmp_path.name}"), StorageConfig(timeout_s=0.9))
    object_store.fail("stall", method="PUT", times=1)
    target.write_file("x", b"x")
    assert target.stats.retries >= 1 and target.read_file("x") == b"x"


def test_a_listing_is_asked_for_again(object_store, tmp_path):
    target = open_storage(object_store.uri(f"list/{tmp_path.name}"), StorageConfig())
    for number in range(20):
        object_store.put(f"list/{tmp_path.name}/{number:02d}", b"x")
    object_store.fault = lambda _method, _, count: ("short", "InternalError", "close", None)[min(count, 3)]
    assert target.files() == {f"{number:02d}": 1 for number in range(20)}
