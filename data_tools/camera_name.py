"""A camera is named by its files: <camera>.mp4 and <camera>.txt."""

from __future__ import annotations

import re
from pathlib import Path

from taudl_dist.errors import UserError

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # file names that are not UTF-8 come as half characters


def camera_name(path: Path) -> str:
    """The stem of a camera's file, whatever letters it has.

    Raises:
        UserError: control characters or bytes that are no UTF-8, which tables and reports cannot hold.
    """
    if _UNPRINTABLE.search(path.stem):
        raise UserError(
            f"{path.parent}: the file name {path.name!r} holds control characters or is not UTF-8, and it names a camera;"
            " rename the file"
        )
    return path.stem
