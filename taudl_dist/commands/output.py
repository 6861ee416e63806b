"""The file a command writes: refused before the work, not after it."""

from __future__ import annotations

from pathlib import Path

from taudl_dist.errors import UserError


def check_output(out: str | Path, *, overwrite: bool) -> Path:
    """The path, in a folder that exists from now on.

    Raises:
        UserError: a file is there already and may not be replaced, or a folder.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"--out {path}: found a folder, expected the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"--out {path}: the file exists; choose another name, or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
