"""Every way in which a dataset can be damaged is found and named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.corpus import shard_corpus
from data_tools.sources import ShardSettings
from data_tools.validate import validate_dataset
from taudl_dist.cli import main
from taudl_dist.errors import UserError


@pytest.fixture
def dataset(make_corpus, tmp_path):
    corpus = make_corpus(truth_from=2)
    shard_corpus(corpus.videos, corpus.tracks, tmp_path / "out", settings=ShardSettings(interval_s=2.0))
    return tmp_path / "out"


def test_a_good_dataset(dataset, capsys):
    report = validate_dataset(dataset)
    assert report.problems == [] and (report.shards, report.tracklets, report.images) == (4, 8, 128)
    assert main(["validate", str(dataset)]) == 0 and main(["validate", "--data", str(dataset), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_problems"] == 0


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x55
    path.write_bytes(content)


def first_tar(dataset):
    return dataset / "shards" / "cam1-train-00000.tar"


def damage_header(dataset):
    flip(first_tar(dataset), 140)
    return ["broken tar header", "expected"]


def damage_jpeg(dataset):
    path = first_tar(dataset)
    content = bytearray(path.read_bytes())
    content[512:612] = bytes(100)
    path.write_bytes(content)
    return ["does not decode", "the file was changed"]


def cut_tar(dataset):
    path = first_tar(dataset)
    path.write_bytes(path.read_bytes()[:9000])
    return ["9000 bytes", "a broken tar header|does not end inside the file"]


def lose_tar(dataset):
    first_tar(dataset).unlink()
    return ["cam1-train-00000.tar: this shard is missing"]


def lose_ok(dataset):
    (dataset / "shards" / "cam1-train-00000.ok.json").unlink()
    return ["cam1-train-00000.ok.json: not readable"]


def leave_a_temporary_file(dataset):
    (dataset / "shards" / "cam1-train-00000.tar.tmp-12ab").write_bytes(b"x")
    return ["tmp-12ab: belongs to no shard"]


def spoil_dali_index(dataset):
    path = dataset / "shards" / "cam1-train-00000.tar.idx"
    path.write_text(path.read_text().replace("512", "513", 1))
    return ["DALI index does not fit"]


def garble_dali_index(dataset):
    (dataset / "shards" / "cam1-train-00000.tar.idx").write_bytes(b"\xff\xfe")
    return ["DALI index does not fit"]


def change_manifest(dataset, **columns):
    path = dataset / "tracklets.parquet"
    rows = pq.read_table(path)
    changed = [{**row, **{name: change(row) for name, change in columns.items()}} for row in rows.to_pylist()]
    pq.write_table(pa.Table.from_pylist(changed, schema=rows.schema), path)


def shift_an_offset(dataset):
    change_manifest(dataset, offset=lambda row: row["offset"] + 512 * (row["label"] == 1))
    return ["digest of the content", "training index: offset differs", "not a whole tracklet|do not lie inside"]


def claim_more_frames(dataset):
    change_manifest(dataset, num_frames=lambda row: row["num_frames"] + 1)
    return ["digest of the content", "16 images, the manifest says 17"]


def swap_a_person(dataset):
    change_manifest(dataset, person_id=lambda row: row["person_id"] and 1 + row["person_id"])
    return ["digest of the content"]


def name_a_shard_that_is_not_there(dataset):
    change_manifest(dataset, shard=lambda row: row["shard"] + 7 * (row["label"] == 0))
    return ["names a shard number that does not exist", "no whole extent of the manifest holds it"]


def lose_rows(dataset):
    path = dataset / "tracklets.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    return ["tracklets in train, query, gallery, but dataset.json counts"]


def change_the_digest(dataset):
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0" * 64}))
    return ["digest of the content is"]


DAMAGES = [
    damage_header, damage_jpeg, cut_tar, lose_tar, lose_ok, leave_a_temporary_file, spoil_dali_index, garble_dali_index, shift_an_offset,
    claim_more_frames, swap_a_person, name_a_shard_that_is_not_there, lose_rows, change_the_digest,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_damage_is_found(dataset, damage, capsys):
    import re

    messages = damage(dataset)
    report = validate_dataset(dataset)
    for message in messages:
        assert any(re.search(message, problem) for problem in report.problems), (message, report.problems)
    assert main(["validate", str(dataset)]) == 1
    assert f"{report.num_problems} problems" in capsys.readouterr().out


def test_the_list_is_bounded(dataset, monkeypatch, capsys):
    monkeypatch.setattr("data_tools.validate._MOST_PROBLEMS", 2)
    change_manifest(dataset, num_frames=lambda row: row["num_frames"] + 1)
    report = validate_dataset(dataset)
    assert len(report.problems) == 2 < report.num_problems
    main(["validate", str(dataset)])
    assert "more problems" in capsys.readouterr().out


def test_no_dataset(tmp_path, capsys):
    with pytest.raises(UserError, match="no such dataset folder"):
        validate_dataset(tmp_path / "nowhere")
    assert main(["validate", str(tmp_path / "nowhere")]) == 1
    assert main(["validate"]) == 2 and main(["validate", "a", "--data", "b"]) == 2
    assert "expected one dataset folder" in capsys.readouterr().err
