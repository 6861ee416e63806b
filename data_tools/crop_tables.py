"""The crops of the units of a plan, on the local disk until the plan is written: a corpus has more of them than memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class CropTables(Mapping[str, pa.Table]):
    """Tables by the unit's name; gone with the object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="taudl-plan-")
        self._names: dict[str, None] = {}

    def add(self, unit: str, crops: pa.Table) -> None:
        """Keeps the table of one more unit."""
        pq.write_table(crops, self.path(unit))
        self._names[unit] = None

    def path(self, unit: str) -> Path:
        """The file of a unit."""
        return Path(self._folder.name) / f"{unit}.parquet"

    def __getitem__(self, unit: str) -> pa.Table:
        return pq.read_table(self.path(unit))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, unit: object) -> bool:
        return unit in self._names
