"""USTAR members out of bytes: headers checked, no index of single images.

Costs a checksum over each 512-byte header (the images are checked by decoding).
"""

from __future__ import annotations

import os
from typing import BinaryIO

from taudl_dist.errors import UserError

BLOCK = 512
_CHECKSUM = slice(148, 156)

Member = tuple[str, bytes]


def parse_members(data: bytes, where: str) -> list[Member]:
    """(name, content) of each USTAR member in `data`, which begins with a header and ends with a member's padding.

    Raises:
        UserError: a damaged header, or members that do not fill the data exactly.
    """
    members: list[Member] = []
    position = 0
    while position < len(data) or not members:
        header = data[position : position + BLOCK]
        key = members[-1][0] if members else "its first member"
        size = _octal(header[124:136])
        if len(header) < BLOCK or header[257:262] != b"ustar" or size is None or not _checksum_holds(header):
            raise damaged(where, f"a broken tar header {position} bytes further, after {key}")
        if header[156:157] not in b"0\0":
            raise damaged(where, f"a link, a device or the like {position} bytes further, after {key}")
        begin = position + BLOCK
        position = begin + -(-size // BLOCK) * BLOCK
        if position > len(data):
            raise damaged(where, f"a member larger than the tracklet, after {key}")
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        members.append((name, data[begin : begin + size]))
    return members


def check_members(file: BinaryIO, where: str, *, most_bytes: int) -> None:
    """Goes over the headers of a whole tar without reading what lies between them.

    Python's own reader would also unpack a compressed file, follow long names, and give a member all the memory that it claims.

    Raises:
        UserError: a member that is no plain file, is larger than `most_bytes`, or does not end inside the file.
    """
    size = file.seek(0, os.SEEK_END)
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(BLOCK)
        if not header.strip(b"\0"):
            return
        if len(header) < BLOCK or header[257:262] != b"ustar" or not _checksum_holds(header):
            raise damaged(where, f"a broken tar header at byte {position}")
        length = _octal(header[124:136])
        if header[156:157] not in b"0\0" or length is None or length > most_bytes:
            raise damaged(
                where, f"a member at byte {position} that no shard holds (a link, a device, or {length} bytes)"
            )
        position += BLOCK + -(-length // BLOCK) * BLOCK
    if position > size:
        raise damaged(where, "its last member does not end inside the file")


def _checksum_holds(header: bytes) -> bool:
    return _octal(header[_CHECKSUM]) == sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """The number of a header's field, or None: int() alone would also take a sign, and a negative size never ends."""
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def damaged(where: str, what: str) -> UserError:
    """The error for bytes that are not what the manifest promises."""
    return UserError(f"{where}: not a whole tracklet: {what}; run `taudl validate`, then make the dataset again")
