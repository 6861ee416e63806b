"""Datasets from existing JPEGs: copied bytes, labels, and a folder that appears whole or not at all."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from data_tools.shard_writer import safe_name, tracklet_key
from data_tools.shards import ImportTracklet, write_dataset
from data_tools.validate import validate_dataset
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.errors import UsageError, UserError


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), (value, 99, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def some(count: int = 5, **changes) -> list[ImportTracklet]:
    fields = {"camera": "c1", "split": "train", "frames": [(3, jpeg(1)), (8, jpeg(2))]}
    return [ImportTracklet(**{**fields, "name": str(number), **changes}) for number in range(count)]


def write(out, tracklets, **changes):
    return write_dataset(out, tracklets, **{"settings": {}, "source": {"name": "test"}, **changes})


def test_files_are_copied_byte_for_byte(tmp_path):
    picture = tmp_path / "one.jpg"
    picture.write_bytes(jpeg(7) + b"trailing bytes stay")
    dataset = open_dataset(write(tmp_path / "out", some(1, frames=[(0, picture)])))
    index = dataset.training
    assert TrackletReader(dataset).read(index.shard[0], index.offset[0], index.length[0]) == [picture.read_bytes()]


def test_labels_follow_the_order_given_and_keys_the_hash(tmp_path):
    out = write(tmp_path / "out", some(9), images_per_shard=6)
    dataset = open_dataset(out)
    rows = read_manifest(out, splits=["train"]).to_pylist()
    assert [row["key"] for row in rows] == [tracklet_key("c1", f"train/{number}") for number in range(9)]
    in_tar_order = sorted(rows, key=lambda row: (row["shard"], row["offset"]))
    assert [row["key"] for row in in_tar_order] == sorted(row["key"] for row in rows)
    assert len(dataset.shards) == 3 and validate_dataset(out).problems == []


def test_the_same_input_gives_the_same_digest(tmp_path):
    digests = {open_dataset(write(tmp_path / name, some())).digest for name in ("a", "b")}
    assert len(digests) == 1 and open_dataset(write(tmp_path / "c", some(4))).digest not in digests


def bad(tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    return {
        "no tracklets to write": [],
        "no such image": some(1, frames=[(0, tmp_path / "missing.jpg")]),
        "note.jpg: not a JPEG": some(1, frames=[(0, tmp_path / "note.jpg")]),
        "an image: not a JPEG": some(1, frames=[(0, b"GIF89a")]),
        "at least one frame": some(1, frames=[]),
        "ascending numbers": some(1, frames=[(3, jpeg(1)), (3, jpeg(2))]),
    }


@pytest.mark.parametrize("case", range(6))
def test_bad_input_leaves_nothing(tmp_path, case):
    message, tracklets = list(bad(tmp_path).items())[case]
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", tracklets)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_tracklet_that_no_reader_would_take_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.shard_writer.EXTENT_BYTES", 2048)
    with pytest.raises(UserError, match=r"tracklet .* of camera 'c1': 2 images of .* readers take at most"):
        write(tmp_path / "out", some(1))
    assert not (tmp_path / "out").exists()


def test_an_object_store_is_refused_and_no_folder_of_its_name_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="then upload it"):
        write("s3://bucket/out", some(1))
    assert list(tmp_path.iterdir()) == []
    assert write(f"file://{tmp_path}/out", some(1)) == tmp_path / "out"


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", some())  # empty is fine
    with pytest.raises(UserError, match="exists and is not empty"):
        write(tmp_path / "out", some())


@pytest.mark.parametrize("camera", ["a.b", "a/b", "../x", "Kamera Süd", "x" * 200, "", "{a,b}"])
def test_any_camera_name_is_safe_and_stays_itself(tmp_path, camera):
    assert (
        safe_name(camera) != safe_name(camera + ".") and "." not in safe_name(camera) and "/" not in safe_name(camera)
    )
    out = write(tmp_path / "out", some(2, camera=camera))
    assert open_dataset(out).cameras == [camera] and validate_dataset(out).problems == []


def test_dali_reads_the_index(tmp_path):
    """The index beside each tar is the one DALI's own webdataset reader takes."""
    from nvidia.dali import fn, pipeline_def

    out = write(tmp_path / "out", some(3))
    tars = sorted((out / "shards").glob("*.tar"))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def pipeline():
        return tuple(
            fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                index_paths=[f"{tar}.idx" for tar in tars],
                ext=["000000003.jpg", "json"],
            )
        )

    pipe = pipeline()
    pipe.build()
    images, _ = pipe.run()
    assert [bytes(images.at(i)) for i in range(3)] == [jpeg(1)] * 3
