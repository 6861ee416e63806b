"""Files of a corpus, on a disk and in an object store: the same bytes, and not many more than were asked for."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from data_tools import source_files
from data_tools.source_files import RemoteFile, SeekableFile, list_files, read_range, size_of
from data_tools.video import find_route, index_frames, iter_frames, iter_pictures, probe, write_video
from taudl_dist.dataset import storage
from taudl_dist.errors import UserError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def remote(object_store, tmp_path):
    """Puts bytes into the store and gives the file."""

    def put(data: bytes, name: str = "x.bin") -> RemoteFile:
        object_store.put(f"{tmp_path.name}/{name}", data)
        return RemoteFile(object_store.uri(tmp_path.name), name, len(data))

    return put


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
@pytest.mark.parametrize("fault", [None, "close", "SlowDown"])
def test_reading_and_seeking_as_in_a_local_file(remote, object_store, monkeypatch, size, fault):
    monkeypatch.setattr(source_files, "_FIRST_BYTES", 700)
    monkeypatch.setattr(source_files, "_MOST_BYTES", 5000)
    data, draw = random.Random(0).randbytes(size), random.Random(1)
    file, twin = SeekableFile(remote(data)), io.BytesIO(data)
    if fault:
        object_store.fault = lambda method, _, count: fault if method == "GET" and count % 3 == 0 else None
    for _ in range(60):
        move = draw.choice(["read", "read", "read", "set", "cur", "end"])
        if move == "read":
            length = draw.choice([0, 1, 300, 4000])
            expected, found = twin.read(length), b""
            while len(found) < len(expected):  # a short answer is no end
                found += file.read(length - len(found))
            assert found == expected and (expected or file.read(length) == b"")
        elif move == "set":
            assert file.seek(at := draw.randrange(size + 1)) == twin.seek(at)
        elif move == "cur":
            assert file.seek(0, os.SEEK_CUR) == twin.seek(0, os.SEEK_CUR)
        else:
            back = draw.randrange(size + 1)
            assert file.seek(-back, os.SEEK_END) == twin.seek(-back, os.SEEK_END)
        assert file.tell() == twin.tell()
    file.close()


def test_reading_in_order_takes_ever_larger_ranges(remote, object_store):
    data = bytes(20 * 2**20)
    file = SeekableFile(remote(data))
    while file.read(2**20):
        pass
    file.close()
    assert object_store.sent_bytes == len(data)
    assert sum(n for (method, _), n in object_store.requests.items() if method == "GET") <= 14


def test_a_jump_does_not_cost_the_whole_file(remote, object_store):
    file = SeekableFile(remote(bytes(20 * 2**20)))
    for offset in (0, 19 * 2**20, 10 * 2**20):
        file.seek(offset)
        file.read(1000)
    file.close()
    assert object_store.sent_bytes == 3 * source_files._FIRST_BYTES


@pytest.fixture
def video(tmp_path) -> Path:
    frames = (np.full((48, 64, 3), 5 * number, np.uint8) for number in range(50))
    path = tmp_path / "local" / "cam1.mp4"
    path.parent.mkdir()
    write_video(path, frames, 10.0)
    return path


def test_a_video_is_the_same_from_a_store(video, remote):
    far = remote(video.read_bytes(), "cam1.mp4")
    here, there = probe(video), probe(far)
    assert (here.num_frames, here.fps, here.width) == (there.num_frames, there.fps, there.width)
    assert there.path == str(far) == f"s3://corpus/{far.folder.split('corpus/')[1].split('?')[0]}/cam1.mp4"
    index, same = index_frames(video), index_frames(far)
    assert (index.stamps == same.stamps).all() and (index.is_key == same.is_key).all()
    wanted = np.array([3, 4, 33, 47])
    route = find_route(index, wanted)
    pictures = [dict(iter_pictures(source, wanted=wanted, route=route)) for source in (video, far)]
    assert all((pictures[0][index].rgb == pictures[1][index].rgb).all() for index in wanted.tolist())
    with pytest.raises(UserError, match=r"cam1\.mp4: the video ends after frame 49"):
        list(iter_frames(far, wanted=np.array([60])))


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "the file is empty"), (b"no video" * 100, "cannot be opened as video")]
)
def test_what_is_no_video_is_named(remote, data, message):
    with pytest.raises(UserError, match=rf"s3://corpus/.*/bad\.mp4: {message}"):
        probe(remote(data, "bad.mp4"))


def test_a_store_that_fails_in_the_middle_of_a_video_is_not_taken_for_damage(video, remote, object_store):
    far = remote(video.read_bytes(), "cam1.mp4")
    object_store.fail("InternalError")
    with pytest.raises(storage.StoreError, match="failed in 5 attempts"):
        list(iter_frames(far))


def test_listing_and_ends(video, object_store, tmp_path):
    (tmp_path / "local" / "deep").mkdir()
    (tmp_path / "local" / "deep" / "a.txt").write_text("abc")
    object_store.upload(tmp_path / "local", f"{tmp_path.name}/up")
    here, there = list_files(tmp_path / "local"), list_files(object_store.uri(f"{tmp_path.name}/up"))
    assert list(here) == list(there) == [PurePosixPath("cam1.mp4"), PurePosixPath("deep/a.txt")]
    for path in here:
        assert size_of(here[path]) == size_of(there[path])
        for offset, length in ((0, 2), (1, 100), (0, 10**6)):
            assert read_range(here[path], offset, length) == read_range(there[path], offset, length)
    assert list_files(tmp_path / "none") == {} == list_files(object_store.uri("none"))
    assert video in here.values()
