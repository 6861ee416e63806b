"""Reading the tables that benchmarks keep in MATLAB files (of the format before 7.3)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taudl_dist.errors import UserError


def read_tables(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The variables `names` of a .mat file before version 7.3.

    Raises:
        UserError: no such file, another format, or a variable is missing.
    """
    from scipy.io import loadmat

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it is a part of the benchmark") from None
    try:
        found = loadmat(io.BytesIO(content), variable_names=names)
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        raise UserError(f"{path}: not a readable MATLAB file ({error}); get it again") from None
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path}: holds no variable {missing[0]}; it is not the benchmark's file of this name")
    return [found[name] for name in names]


def read_integers(path: Path, name: str) -> np.ndarray:
    """A table of whole numbers, (rows, columns) int64."""
    (table,) = read_tables(path, [name])
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.number) or not (table == np.trunc(table)).all():
        raise UserError(f"{path}: {name} is no table of whole numbers; it is not the benchmark's file of this name")
    return table.astype(np.int64)
