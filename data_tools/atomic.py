"""Files that appear complete or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
"""Stands in the name of every file that is not complete."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name of its own, in the same folder, to write to; it becomes `path` when the block ends without an error."""
    temporary = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Deletes the incomplete files that killed attempts left in a folder."""
    for path in folder.glob(f"*{TEMPORARY}*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)
