"""Finding the parts of a copy of a benchmark: at the folder given or in the usual subfolder of it, by exact name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from taudl_dist.errors import UsageError, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def inside(root: str | Path, *usual: str, holding: str) -> Path:
    """`root`, or its subfolder of one of the benchmark's usual names, whichever has the file or folder `holding` in it.

    Raises:
        UsageError: none has; the message says so, and which level was meant where that can be seen.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder of your copy of the benchmark")
    for path in (root, *(root / name for name in usual)):
        if (path / holding).exists():
            return path
    for path in root.resolve().parents:
        if (path / holding).exists():
            raise UsageError(f"{root}: too deep, found {holding} in {path}; give that folder")
    places = " nor in ".join(str(root / name) for name in usual)
    raise UsageError(
        f"{root}: found no {holding} there nor in {places}{other_case(root, holding)}; give the folder that holds {holding}"
    )


def other_case(root: Path, name: str) -> str:
    """Half a sentence for a message when `root` has `name` in other letters, else nothing."""
    first = Path(name).parts[0]
    for path in root.iterdir():
        if path.name != first and path.name.lower() == first.lower():
            return f" (but {path.name}, which is to be named {first})"
    return ""


def image_files(folder: Path) -> list[Path]:
    """The image files right in a folder, in order of their names; other files (Thumbs.db) are none of ours.

    Raises:
        UserError: there is no such folder, or it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        hint = other_case(folder.parent, folder.name) if folder.parent.is_dir() else ""
        raise UserError(
            f"{folder}: no such folder{hint} ({error.strerror}); the copy is incomplete or not of the official layout"
        ) from None


def parsed(paths: Sequence[Path], pattern: re.Pattern[str], *, benchmark: str, example: str) -> Iterator[re.Match[str]]:
    """The names of files as the benchmark's pattern takes them apart.

    Raises:
        UserError: a name that is not one of the benchmark.
    """
    for path in paths:
        match = pattern.fullmatch(path.name)
        if not match:
            raise UserError(f"{path}: the name is not one of {benchmark}, such as {example}; move it away")
        yield match
