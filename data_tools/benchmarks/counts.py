"""What a complete copy of each benchmark holds, and the check of a copy against it.

Counted from the published file lists and images; an importer is right when its counts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taudl_dist.errors import UserError
from taudl_dist.progress import log

Counts = Mapping[str, int | list[int]]
"""Name of a count -> the number, or a number for each camera."""

MARKET1501: Counts = {
    "train images": 12_936,
    "train identities": 751,
    "train images per camera": [2017, 1709, 2707, 920, 2338, 3245],
    "train tracklets per camera": [652, 541, 694, 241, 576, 558],
    "query images": 3_368,
    "query identities": 750,
    "query images per camera": [668, 530, 717, 248, 622, 583],
    "test images": 19_732,
    "test images of junk (-1)": 3_819,
    "test images of distractors (0000)": 2_798,
    "test images of people": 13_115,
    "test identities": 750,
}
"""Market-1501 v15.09.15 (Zheng et al., ICCV 2015), its first release, from the file names of the distribution."""


def check_counts(name: str, found: Counts, expected: Counts, *, allow_mismatch: bool) -> list[str]:
    """The counts that differ, as sentences; none in a complete copy.

    Raises:
        UserError: some differ and `allow_mismatch` is false.
    """
    mismatches = [
        f"{key}: found {found[key]}, expected {expected[key]}" for key in expected if found[key] != expected[key]
    ]
    if not mismatches:
        return []
    message = f"this copy of {name} is not the complete one: {'; '.join(mismatches)}"
    if not allow_mismatch:
        raise UserError(
            f"{message}. Look for missing or extra files, or pass --allow-mismatch for a subset made on purpose"
        )
    log(f"warning: {message}")
    return mismatches


def per_camera(cameras: list[Any], values: list[Any]) -> list[int]:
    """How often each camera stands among the values."""
    return [values.count(camera) for camera in cameras]
