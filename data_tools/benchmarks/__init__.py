"""Re-identification benchmarks as datasets: an importer module for each, called by `taudl import NAME ROOT OUT`.

Each follows the official layout and split, makes the paper's simulated SSTT of the training part (Sect. 4), and checks its
counts against the published ones before it writes anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from taudl_dist.errors import UsageError

IMPORTERS = {
    "cuhk03": "data_tools.benchmarks.cuhk03",
    "market1501": "data_tools.benchmarks.market1501",
    "dukemtmcreid": "data_tools.benchmarks.dukemtmcreid",
    "mars": "data_tools.benchmarks.mars",
    "prid2011": "data_tools.benchmarks.prid2011",
    "ilids-vid": "data_tools.benchmarks.ilids_vid",
}
"""Name of each benchmark and the module whose `import_benchmark(root, out, ...)` makes a dataset of it."""


def importer(name: str) -> Callable[..., Mapping[str, Any]]:
    """The import function of a benchmark."""
    if name not in IMPORTERS:
        raise UsageError(f"benchmark {name!r} is unknown; expected one of {', '.join(IMPORTERS)}")
    return importlib.import_module(IMPORTERS[name]).import_benchmark
