from __future__ import annotations

import os

import numpy as np
import psutil
import pytest

from taudl_dist.dataset.index import TrainingIndex, open_index, write_index
from taudl_dist.dataset.schema import INDEX_FILE, INDEX_SCHEMA
from taudl_dist.errors import UserError


def columns(num_rows):
    rng = np.random.default_rng(0)
    kinds = {field.name: field.type.to_pandas_dtype() for field in INDEX_SCHEMA}
    return {name: rng.integers(0, 2**31 - 1, num_rows, dtype=kind) for name, kind in kinds.items()}


@pytest.fixture
def opened(tmp_path):
    def make(num_rows):
        written = columns(num_rows)
        write_index(tmp_path / INDEX_FILE, written)
        return written, open_index(tmp_path, [num_rows])

    return make


@pytest.mark.parametrize("rows", [[], [0], [999], [7, 7, 0, 999, 3], list(range(1000))])
def test_take_equals_indexing(opened, rows):
    written, index = opened(1000)
    in_memory = TrainingIndex(camera_offsets=index.camera_offsets, **written)
    for name, values in written.items():
        for either in (index, in_memory):
            taken = either.take(name, np.array(rows, np.int64))
            assert taken.dtype == values.dtype and taken.tolist() == values[rows].tolist()


@pytest.mark.parametrize("row", [-1, 1000, 10**12])
def test_rows_outside(opened, row):
    _, index = opened(1000)
    with pytest.raises(IndexError, match="an index of 1000"):
        index.take("shard", np.array([5, row]))


def test_a_file_cut_short_while_open(opened, tmp_path):
    _, index = opened(1000)
    os.truncate(tmp_path / INDEX_FILE, 500)
    with pytest.raises(UserError, match=r"tracklets\.arrow: shorter than when it was opened"):
        index.take("num_frames", np.array([999]))


def test_no_rows(opened):
    _, index = opened(0)
    assert len(index) == 0 and index.take("length", np.zeros(0, np.int64)).tolist() == []


def test_the_file_closes_with_the_index(opened):
    before = psutil.Process().num_fds()
    _, index = opened(10)
    assert psutil.Process().num_fds() > before
    del index
    assert psutil.Process().num_fds() == before


def test_scattered_reads_stay_out_of_memory(opened):
    _, index = opened(3_000_000)  # 12 MB of num_frames, 84 MB in all
    before = psutil.Process().memory_info().rss
    rng = np.random.default_rng(1)
    for _ in range(20):
        for column in ("num_frames", "shard", "offset", "length"):
            index.take(column, rng.integers(0, len(index), 500))
    assert psutil.Process().memory_info().rss - before < 8 * 2**20
