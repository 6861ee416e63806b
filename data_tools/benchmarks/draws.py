"""Seeded choices that no library version changes: things in the order of a hash of the seed, the purpose and themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from taudl_dist.errors import UsageError

Thing = TypeVar("Thing", int, str)


def shuffled(things: Iterable[Thing], *, seed: int, purpose: str) -> list[Thing]:
    """The different things given, in a random order that is a function of (seed, purpose, things)."""
    return sorted(set(things), key=lambda thing: hashlib.sha256(f"{seed}/{purpose}/{thing}".encode()).digest())


def first_identities(people: Iterable[int], identities: int) -> set[int]:
    """The first `identities` people in order of their number; 0: all.

    Raises:
        UsageError: there are not so many.
    """
    people = sorted(set(people))
    if not 0 <= identities <= len(people):
        raise UsageError(f"--identities {identities}: this copy has {len(people)} training identities; 0 takes all")
    return set(people[:identities] if identities else people)
