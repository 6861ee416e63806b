"""Where datasets are made: names of attempts, JSON a line an item, and what both kinds of folder do alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.commits import Commit, read_commits, remove_losers
from data_tools.folder import LocalFolder, attempt_of, open_folder, write_json
from taudl_dist.errors import UserError


@pytest.fixture(params=["local", "remote"])
def folder(request, object_store, tmp_path):
    place = tmp_path / "data" if request.param == "local" else object_store.uri(f"{tmp_path.name}/data")
    return open_folder(place)


def test_files_come_and_go(folder, tmp_path):
    assert folder.names() == folder.names("shards") == {} and folder.entries() == set()
    folder.prepare(["shards", "plan"])
    folder.write("a.json", b"1")
    folder.write("a.json", b"22")
    with folder.whole_file("shards/x.tar") as path:
        path.write_bytes(b"tar")
    for name in ("p", "q"):
        (tmp_path / name).write_bytes(name.encode())
    folder.take({f"plan/{name}": tmp_path / name for name in ("p", "q")})
    assert folder.names() == {"a.json": 2} and folder.names("shards") == {"x.tar": 3}
    assert {"a.json", "shards", "plan"} <= folder.entries()
    assert (folder.read("a.json"), folder.read("plan/q")) == (b"22", b"q")
    assert list(folder.map(lambda number: number * 2, range(50))) == list(range(0, 100, 2))
    folder.write("shards/y.tmp-1", b"half")
    folder.prepare(["shards"])
    folder.remove(["a.json", "nothing"])
    folder.remove_part("plan")
    assert folder.names() == folder.names("plan") == {} and folder.names("shards") == {"x.tar": 3}
    with pytest.raises(FileNotFoundError):
        folder.read("a.json")


def test_a_block_that_fails_leaves_nothing(folder):
    folder.prepare(["shards"])
    with pytest.raises(KeyError), folder.whole_file("shards/x.tar") as path:
        path.write_bytes(b"half")
        raise KeyError
    assert folder.names("shards") == {}


def test_a_file_is_no_folder(folder, tmp_path):
    folder.prepare([])
    folder.write("x", b"1")
    inside = LocalFolder(tmp_path / "data" / "x") if isinstance(folder, LocalFolder) else open_folder(
        folder.uri.replace("/data?", "/data/x?")
    )  # fmt: skip
    with pytest.raises(UserError, match="is a file; expected a folder"):
        inside.entries()


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("cam1-train-00000", None),
        ("cam1-train-00000--0123abcd", "cam1-train-00000"),
        ("cam--0123abcd-train-00000", None),  # a camera of that name
        ("cam--0123abcd-train-00000--ffffffff", "cam--0123abcd-train-00000"),
        ("cam1-train-00000--0123ABCD", None),
    ],
)
def test_names_of_attempts(name, unit):
    assert attempt_of(name) == ((unit, True) if unit else (name, False))


@pytest.mark.parametrize("value", [{}, [], 5, {"a": [{"x": 1, "y": [1, {"z": "q\n"}]}, {}], "b": {"c": {"d": None}}}])
def test_json_is_the_same_whatever_its_lines(tmp_path, value):
    write_json(LocalFolder(tmp_path), "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value


def record(stem: str, *, size: int = 3, plan: str = "p", failed: int = 0) -> dict:
    shard = {"name": "u-train-00000.tar", "bytes": size, "sha256": "", "file": f"{stem}.tar"}
    return {
        "plan": plan,
        "shard": shard,
        "rows": 1,
        "tracklets": 1,
        "failed": dict.fromkeys(map(str, range(failed)), "x"),
    }


CASES = [
    ([("--00000001", {})], "--00000001"),
    ([("--00000002", {}), ("--00000001", {})], "--00000001"),  # equal ones: the first
    ([("--00000001", {"failed": 2}), ("--00000002", {"failed": 1})], "--00000002"),  # fewer failures
    ([("--00000001", {"plan": "other"}), ("--00000002", {})], "--00000002"),
    ([("--00000001", {"size": 4})], None),  # its tar has another size
    ([("", {"failed": 1}), ("--00000001", {"failed": 1})], ""),
]


@pytest.mark.parametrize(("attempts", "winner"), CASES)
def test_which_attempt_is_taken(folder, attempts, winner):
    folder.prepare(["shards", "fragments"])
    for end, facts in attempts:
        stem = f"u-train-00000{end}"
        for name in (f"shards/{stem}.tar", f"shards/{stem}.tar.idx", f"fragments/{stem}.parquet"):
            folder.write(name, b"tar")
        write_json(folder, f"shards/{stem}.ok.json", record(stem, **facts))
    folder.write("shards/u-train-00000--0000000f.ok.json", b"{")
    folder.write("shards/other-train-00000.ok.json", json.dumps(record("other-train-00000")).encode())
    found = read_commits(folder, {"u-train-00000": "p"})
    assert [commit.stem for commit in found.values()] == ([] if winner is None else [f"u-train-00000{winner}"])
    remove_losers(folder, found.values())
    left = {name for name in folder.names("shards") if "--" in name}
    assert left == ({f"u-train-00000{winner}{end}" for end in (".tar", ".tar.idx", ".ok.json")} if winner else set())


@pytest.mark.parametrize("shard", [5, [], "x", {}, {"bytes": None}])
def test_a_damaged_record_counts_as_none(tmp_path, shard):
    folder = LocalFolder(tmp_path)
    folder.prepare(["shards", "fragments"])
    folder.write("fragments/u.parquet", b"")
    folder.write("shards/u.tar", b"tar")
    write_json(folder, "shards/u.ok.json", {**record("u"), "shard": shard})
    assert read_commits(folder, {"u": "p"}) == {}


def test_a_unit_of_which_all_was_dropped_is_done():
    commit = Commit(stem="u", plan="p", shard=None, rows=0, failed={})
    assert commit.files == ["fragments/u.parquet", "shards/u.tar", "shards/u.tar.idx", "shards/u.ok.json"]
    assert Path(commit.fragment).name == "u.parquet"
