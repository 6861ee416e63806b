"""Market-1501 as a dataset (Zheng et al., ICCV 2015); see `pictures` for what becomes a tracklet."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from data_tools.benchmarks.counts import MARKET1501, Counts, check_counts
from data_tools.benchmarks.folders import inside
from data_tools.benchmarks.pictures import QUERY, SSTT, TEST, TRAIN, count, probes, read_folder, training_tracklets
from data_tools.shards import write_dataset

CAMERAS = range(1, 7)

_NAME = re.compile(r"(?P<person>-1|\d{4})_c(?P<camera>[1-6])s\d_\d{6}_\d{2}\.jpg(\.jpg)?", re.IGNORECASE)
"""24 names of the distribution do end in .jpg.jpg."""


def import_benchmark(root: str | Path, out: str | Path, *, identities: int = 0, allow_mismatch: bool = False) -> Counts:
    """Writes the dataset of a copy of Market-1501 and returns its counts.

    Args:
        root: the folder that holds bounding_box_train, query and bounding_box_test, or its parent.
        identities: keep only the first so many training identities; 0 keeps all.
        allow_mismatch: take a copy whose counts are not those of the complete benchmark.

    Raises:
        UserError: counts differ, a folder is missing, an image is unreadable, or a file name is not one of Market-1501.
    """
    root = inside(root, "Market-1501-v15.09.15", holding=TRAIN)
    train, query, test = (
        read_folder(root / folder, _NAME, benchmark="Market-1501", example="0002_c1s1_000451_03.jpg")
        for folder in (TRAIN, QUERY, TEST)
    )
    counts = count(train, query, test, cameras=CAMERAS)
    mismatches = check_counts("Market-1501", counts, MARKET1501, allow_mismatch=allow_mismatch)
    write_dataset(
        out,
        itertools.chain(
            training_tracklets(train, identities=identities), probes(query, "query"), probes(test, "gallery")
        ),
        settings={"benchmark": "market1501", "sstt": SSTT, "identities": identities},
        source={"name": "Market-1501-v15.09.15", "counts": counts, "mismatches": mismatches},
    )
    return counts
