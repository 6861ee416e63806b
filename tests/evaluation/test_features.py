"""Tracklet features against one image at a time."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from taudl_dist.batches.pipeline import DecodePipeline
from taudl_dist.dataset import TrackletReader, read_manifest
from taudl_dist.errors import UserError
from taudl_dist.evaluation.features import embed, evenly_spaced, part_sizes, pooled_features
from taudl_dist.model import load_model

SPACED = [
    # frames there are, frames wanted, positions
    (1, 0, [0]),
    (3, 0, [0, 1, 2]),
    (3, 5, [0, 1, 2]),  # more than there are: all, none twice
    (3, 3, [0, 1, 2]),
    (3, 1, [1]),  # the middle one
    (4, 2, [1, 3]),
    (10, 3, [1, 5, 8]),
    (1000, 4, [125, 375, 625, 875]),
]


@pytest.mark.parametrize(("num_frames", "wanted", "positions"), SPACED)
def test_evenly_spaced(num_frames, wanted, positions):
    assert evenly_spaced(num_frames, wanted).tolist() == positions


def sizes(jpegs):
    """Something that tells images apart: their length in bytes."""
    return np.array([[len(jpeg), 1.0] for jpeg in jpegs], np.float32)


@pytest.mark.parametrize("batch_images", [1, 3, 4, 100])  # tracklets of 1 to 4 frames straddle batches
@pytest.mark.parametrize("frames", [0, 2])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_over_frames(dataset, batch_images, frames, pooling):
    rows = read_manifest(dataset)
    found = pooled_features(sizes, dataset, rows, frames=frames, pooling=pooling, batch_images=batch_images)
    reader = TrackletReader(dataset)
    for feature, row in zip(found, rows.to_pylist()):
        jpegs = reader.read(row["shard"], row["offset"], row["length"])
        kept = [jpegs[position] for position in evenly_spaced(len(jpegs), frames)]
        np.testing.assert_allclose(feature, getattr(sizes(kept), pooling)(0), rtol=1e-6)


@pytest.mark.parametrize("batch_images", [1, 3, 100])
@pytest.mark.parametrize("frames", [0, 3])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_parts_are_pooled_apart(dataset, batch_images, frames, pooling):
    rows = read_manifest(dataset)
    options = {"frames": frames, "pooling": pooling, "batch_images": batch_images}
    found = pooled_features(sizes, dataset, rows, parts=2, **options).reshape(len(rows), 2, 2)
    reader = TrackletReader(dataset)
    for halves, row in zip(found, rows.to_pylist()):
        jpegs = reader.read(row["shard"], row["offset"], row["length"])
        kept = [jpegs[position] for position in evenly_spaced(len(jpegs), frames)]
        middle = (len(kept) + 1) // 2
        for half, images in zip(halves, (kept[:middle], kept[middle:])):
            expected = getattr(sizes(images), pooling)(0) if images else [np.nan, np.nan]
            np.testing.assert_allclose(half, expected, rtol=1e-6)


@pytest.mark.parametrize("num_frames", range(12))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_sizes_of_parts(num_frames, parts):
    expected = [sum(frame * parts // num_frames == part for frame in range(num_frames)) for part in range(parts)]
    assert part_sizes(np.array([num_frames]), frames=0, parts=parts)[0].tolist() == expected


def test_embedding_is_the_mean_of_single_images(dataset, run):
    model = load_model(run)
    rows = read_manifest(dataset)
    found = embed(model, dataset, rows, batch_images=4)
    assert found.dtype == np.float32
    assert found.shape == (10, 16)
    decode = DecodePipeline(1, 32, 16, "cpu").decode
    row = rows.to_pylist()[3]
    jpegs = TrackletReader(dataset).read(row["shard"], row["offset"], row["length"])
    with torch.inference_mode():
        single = [model(decode([jpeg], [[0, 0, 1, 1]], [False]), [1]) for jpeg in jpegs]
    np.testing.assert_allclose(found[3], torch.cat(single).mean(0), atol=1e-5)


def test_a_model_of_double_precision(dataset, run):
    rows = read_manifest(dataset)
    single, double = (embed(model, dataset, rows) for model in (load_model(run), load_model(run).double()))
    assert double.dtype == np.float32
    np.testing.assert_allclose(double, single, rtol=1e-4, atol=1e-5)


def test_a_feature_that_is_not_finite_names_its_tracklet(dataset):
    def broken(jpegs):
        values = sizes(jpegs)
        values[-1, 0] = np.nan
        return values

    rows = read_manifest(dataset)
    with pytest.raises(UserError, match=f"tracklet {rows['key'][0]}: its feature is not finite"):
        pooled_features(broken, dataset, rows, batch_images=1)


def test_another_number_of_images_than_the_manifest_says(dataset):
    rows = read_manifest(dataset)
    wrong = rows.set_column(
        rows.schema.get_field_index("num_frames"), "num_frames", pa.array([7] * len(rows), pa.int32())
    )
    with pytest.raises(UserError, match="in its shard, but 7 in the manifest"):
        pooled_features(sizes, dataset, wrong)


def test_a_damaged_image_names_its_tracklet(dataset, run, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(dataset.path, folder)
    rows = read_manifest(dataset)
    row = rows.to_pylist()[0]
    shard = folder / "shards" / dataset.shards[row["shard"]]
    data = bytearray(shard.read_bytes())
    begin = row["offset"] + 512
    data[begin : begin + 16] = b"not a JPEG at al"
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=f"tracklet {row['key']} of shard"):
        embed(load_model(run), dataclasses.replace(dataset, path=folder), rows)
