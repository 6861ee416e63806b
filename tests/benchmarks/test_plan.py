from __future__ import annotations

import numpy as np
import pytest

from benchmarks.plan import as_text, camera_sizes, coverage, long_run, opening, write_manifest
from taudl_dist.dataset import open_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    write_manifest(folder, camera_sizes(60, 9000))
    return folder


def test_manifest(folder):
    dataset = open_dataset(folder)
    sizes = np.diff(dataset.training.camera_offsets)
    assert (len(sizes), sizes.sum(), len(dataset.shards)) == (60, 9000, 1200)
    assert sizes[:4].tolist() == [0, 1, 1, 1] and dataset.training.label.max() == sizes.max() - 1


def test_parts(folder):
    result = opening(folder) | long_run(folder, steps=30) | coverage(folder, tracklets_per_camera=16)
    assert result["repeats"] == result["coverage_errors"] == 0 and result["coverage_cameras"] == 59
    assert result["coverage_steps"] > 1 and 0 < result["step_ms_median"] <= result["slowest_step_ms"]
    lines = as_text(result).splitlines()
    assert len(lines) == len(result) + 1 and "%" in next(line for line in lines if line.startswith("open_s"))
