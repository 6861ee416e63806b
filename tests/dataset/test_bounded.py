"""Files that somebody else wrote: what is not plain, or larger than there is reason for, is refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taudl_dist.dataset.bounded import open_plain, read_bounded
from taudl_dist.errors import UserError


def test_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_bounded(path, 3) == b"abc"
    (tmp_path / "link").symlink_to(path)
    with open_plain(tmp_path / "link") as file:
        assert file.read() == b"abc"
    with pytest.raises(UserError, match="3 bytes, expected at most 2"):
        read_bounded(path, 2)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "nowhere", 2)


def test_what_is_not_plain_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "zero"):
        with pytest.raises(UserError, match="not a plain file"):
            open_plain(tmp_path / name)
    with pytest.raises(UserError, match="1099511627776 bytes, expected at most"):
        read_bounded(tmp_path / "sparse", 2**20)
