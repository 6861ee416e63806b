"""Reading files that somebody else wrote: only plain files, and never more than there can be reason for."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from taudl_dist.errors import UserError

RECORD_BYTES = 2**24
"""Most bytes of a small record: an .ok.json, which lists what failed."""
INFO_BYTES = 2**28
"""Most bytes of a dataset.json: a million shards need 150 MB."""
EXTENT_BYTES = 2**28
"""Most bytes of a tracklet: 16 frames of 4 megapixels have a tenth of that."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a small file.

    Raises:
        UserError: more than `limit` bytes, or no plain file.
        OSError: missing, or not readable.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UserError(f"{path}: {size} bytes, expected at most {limit}; the file was not written by taudl")
        return file.read(limit)


def open_plain(path: Path) -> io.BufferedReader:
    """A file for reading; a pipe, on which that would wait for ever, or a device is refused.

    Raises:
        UserError: no plain file.
        OSError: missing, or not readable.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: not a plain file; the dataset was not written by taudl")
    return file
