"""Counts of MARS: those published, from the real tables where they are at hand; and queries that have a match."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.benchmarks.counts import MARS, MARS_GALLERY, check_counts
from data_tools.benchmarks.mars_tables import CAMERA, PERSON, count, gallery_rows, num_valid, read_tables
from taudl_dist.evaluation import rank_metrics

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "mars_info"

TEST = np.array([(1, 2, -1, 1), (3, 3, 0, 2), (4, 5, 2, 1), (6, 6, 2, 1), (7, 9, 2, 3), (10, 10, 4, 1), (11, 11, 6, 2)])
QUERIES = np.array([2, 4, 5])


@pytest.mark.parametrize(("gallery", "rows"), [("with-queries", [0, 1, 2, 3, 4, 5, 6]), ("without-queries", [1, 3, 6])])
def test_galleries(gallery, rows):
    """Valid are the queries that ranking finds valid: with a match in another camera."""
    assert gallery_rows(TEST, QUERIES, gallery=gallery).tolist() == rows
    queries, held = TEST[QUERIES], TEST[rows]
    distances = np.random.default_rng(0).random((len(queries), len(held)))
    metrics = rank_metrics(
        distances, queries[:, PERSON], held[:, PERSON], queries[:, CAMERA], held[:, CAMERA], max_rank=2
    )
    assert num_valid(queries, held) == metrics.num_valid_queries == {7: 2, 3: 1}[len(rows)]


def test_images_are_lines_of_the_list():
    counts = count(TEST, TEST, QUERIES, gallery="without-queries")
    assert (counts["test images"], counts["query images"], counts["test identities"]) == (11, 6, 3)
    assert counts["train tracklets per camera"] == [4, 2, 1, 0, 0, 0]
    assert counts["train identities per camera"] == [3, 2, 1, 0, 0, 0]


@pytest.mark.skipif(
    not REAL.is_dir(),
    reason="the authors' tables may not be shipped with the project; tables of the same form, made here, are tested above",
)
@pytest.mark.parametrize("gallery", MARS_GALLERY)
def test_published_counts(gallery):
    counts = count(*read_tables(REAL), gallery=gallery)
    assert check_counts("MARS", counts, {**MARS, **MARS_GALLERY[gallery]}, allow_mismatch=False) == []
