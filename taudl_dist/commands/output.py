"""The file a command writes: refused before the work, not after it."""

from __future__ import annotations

from pathlib import Path

from taudl_dist.errors import UserError


def check_output(out: str | Path, *, overwrite: bool, flag: str = "--out") -> Path:
    """The path, in a folder that exists from now on.

    Raises:
        UserError: a file is there already and may not be replaced, or a folder; or its folder cannot be made.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{flag} {path}: found a folder, expected the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"{flag} {path}: the file exists; choose another name, or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path}: its folder cannot be made ({error.strerror}); choose another place") from None
    return path
