"""Re-identification benchmarks as datasets: an importer module for each, called by `taudl import NAME ROOT OUT`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taudl_dist.errors import UsageError

IMPORTERS = {
    "market1501": "data_tools.benchmarks.market1501",
}
"""Name of each benchmark and the module whose `import_benchmark(root, out, ...)` makes a dataset of it."""

PLANNED = ("cuhk03", "dukemtmcreid", "ilidsvid", "mars", "prid2011")
"""The paper's other benchmarks, which have a place here and no importer yet."""


def importer(name: str) -> Callable[..., Mapping[str, Any]]:
    """The import function of a benchmark."""
    if name in PLANNED:
        raise UsageError(f"benchmark {name!r}: its importer is not built yet; there is {', '.join(IMPORTERS)}")
    if name not in IMPORTERS:
        raise UsageError(f"benchmark {name!r} is unknown; expected one of {', '.join(IMPORTERS)}")
    return importlib.import_module(IMPORTERS[name]).import_benchmark


def inside(root: str | Path, folder: str, *, holding: str) -> Path:
    """`root`, or its subfolder of the benchmark's usual name, whichever has the folder `holding` in it."""
    for path in (Path(root), Path(root) / folder):
        if (path / holding).is_dir():
            return path
    raise UsageError(
        f"{root}: found no folder {holding} there nor in {Path(root) / folder}; give the folder that holds {holding}"
    )
