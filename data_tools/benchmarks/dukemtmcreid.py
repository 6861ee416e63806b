"""DukeMTMC-reID as a dataset (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017); see `pictures` for what becomes a tracklet.

The authors withdrew it in 2019. Nothing here downloads it: a copy that the user holds is read, with a warning.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from data_tools.benchmarks.counts import DUKEMTMCREID, Counts, check_counts
from data_tools.benchmarks.folders import inside
from data_tools.benchmarks.pictures import QUERY, SSTT, TEST, TRAIN, count, probes, read_folder, training_tracklets
from data_tools.shards import write_dataset
from taudl_dist.progress import log

CAMERAS = range(1, 9)
WITHDRAWN = (
    "warning: DukeMTMC-reID was withdrawn by its authors in 2019, because people were recorded without consent; use it only if"
    " you may, never pass it on, and prefer another benchmark for new results"
)

_NAME = re.compile(r"(?P<person>\d{4})_c(?P<camera>[1-8])_f\d{7}\.jpg", re.IGNORECASE)


def import_benchmark(root: str | Path, out: str | Path, *, identities: int = 0, allow_mismatch: bool = False) -> Counts:
    """Writes the dataset of a copy of DukeMTMC-reID that the user holds, and returns its counts; warns on stderr.

    Arguments and errors are those of `market1501.import_benchmark`. The 408 distractor identities of the gallery have numbers
    of their own, and no query.
    """
    log(WITHDRAWN)
    root = inside(root, "DukeMTMC-reID", holding=TRAIN)
    train, query, test = (
        read_folder(root / folder, _NAME, benchmark="DukeMTMC-reID", example="0001_c2_f0046182.jpg")
        for folder in (TRAIN, QUERY, TEST)
    )
    counts = count(train, query, test, cameras=CAMERAS)
    mismatches = check_counts("DukeMTMC-reID", counts, DUKEMTMCREID, allow_mismatch=allow_mismatch)
    write_dataset(
        out,
        itertools.chain(
            training_tracklets(train, identities=identities), probes(query, "query"), probes(test, "gallery")
        ),
        settings={"benchmark": "dukemtmcreid", "sstt": SSTT, "identities": identities},
        source={"name": "DukeMTMC-reID", "counts": counts, "mismatches": mismatches, "note": WITHDRAWN},
    )
    return counts
