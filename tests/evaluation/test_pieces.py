"""How a manifest is cut into pieces, and what a worker that sees other data says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from taudl_dist.dataset import absolute
from taudl_dist.errors import UserError
from taudl_dist.evaluation import pieces
from taudl_dist.evaluation.evaluate import model_digest
from taudl_dist.evaluation.pieces import Request, cut_pieces, embed_piece

CUTS = [
    # images of each tracklet, most images, most tracklets, frames asked for, tracklets of each piece
    ([], 10, 10, 0, []),
    ([3], 10, 10, 0, [1]),
    ([5, 5, 5], 10, 10, 0, [2, 1]),  # full to the last image
    ([4, 4, 4, 4], 10, 10, 0, [3, 1]),  # the tracklet that reaches the limit is the last
    ([50, 1, 1], 10, 10, 0, [1, 2]),  # a long one is not cut
    ([1] * 7, 10, 3, 0, [3, 3, 1]),
    ([50, 50, 50, 50], 10, 10, 4, [3, 1]),  # what counts are images that are read
]


@pytest.mark.parametrize("case", CUTS)
def test_cut_pieces(case, monkeypatch):
    counts, most_images, most_tracklets, frames, expected = case
    monkeypatch.setattr(pieces, "MAX_IMAGES", most_images)
    monkeypatch.setattr(pieces, "MAX_TRACKLETS", most_tracklets)
    rows = pa.table({"num_frames": pa.array(counts, pa.int32()), "at": pa.array(range(len(counts)), pa.int64())})
    found = cut_pieces(rows, frames=frames)
    assert [len(piece.rows) for piece in found] == expected
    assert [piece.number for piece in found] == list(range(len(expected)))
    assert [at for piece in found for at in piece.rows["at"].to_pylist()] == list(range(len(counts)))
    for piece in found:
        read = np.minimum(piece.rows["num_frames"].to_numpy(), frames or 10**9)
        assert piece.num_images == read.sum()


def test_a_worker_that_sees_another_dataset_or_model(dataset, run):
    right = Request(
        data=absolute(str(dataset.path)), model=str(run), dataset_digest=dataset.digest, model_digest=model_digest(run)
    )
    piece = pieces.Piece(number=0, rows=pa.table({"num_frames": pa.array([1])}), num_images=1)
    for name in ("dataset_digest", "model_digest"):
        answer = embed_piece(dataclasses.replace(right, **{name: "0" * 64}), "cpu", 1, piece)
        assert isinstance(answer, UserError)
        assert f"{name} {getattr(right, name)}, expected 0000" in str(answer)
