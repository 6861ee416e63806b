"""Which units are done: what their commit records say, of all of them in one look.

A record counts if it belongs to the unit's plan and its files are there with the right size. In an object store several attempts at a
unit may have been completed; then the one with the fewest failures is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data_tools.folder import Folder, attempt_of, read_if_there
from taudl_dist.dataset.schema import SHARDS_DIR

FRAGMENTS_DIR = "fragments"
OK = ".ok.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A unit that is done. `stem`: what its files are called before their endings.

    shard: its entry in dataset.json; None where nothing is left of it. failed: planned tracklets (keys) that are missing, and why.
    """

    stem: str
    plan: str
    shard: dict[str, Any] | None
    rows: int
    failed: dict[str, str]

    @property
    def fragment(self) -> str:
        """Its rows of the manifest."""
        return f"{FRAGMENTS_DIR}/{self.stem}.parquet"

    @property
    def files(self) -> list[str]:
        """All it consists of."""
        shards = (f"{self.stem}.tar", f"{self.stem}.tar.idx", f"{self.stem}{OK}")
        return [self.fragment, *(f"{SHARDS_DIR}/{name}" for name in shards)]


def read_commits(folder: Folder, digests: Mapping[str, str]) -> dict[str, Commit]:
    """The units that are done, among those of which the digest of the plan is given by the unit's name."""
    shards, fragments = folder.names(SHARDS_DIR), folder.names(FRAGMENTS_DIR)
    stems = sorted(name.removesuffix(OK) for name in shards if name.endswith(OK))
    stems = [stem for stem in stems if attempt_of(stem)[0] in digests]
    found: dict[str, Commit] = {}
    for stem, record in zip(stems, folder.map(lambda stem: _read(folder, stem), stems)):
        unit = attempt_of(stem)[0]
        commit = _commit(stem, record)
        if commit and commit.plan == digests[unit] and _is_whole(commit, shards, fragments):
            rival = found.get(unit)
            if rival is None or len(commit.failed) < len(rival.failed):
                found[unit] = commit
    return found


def remove_losers(folder: Folder, winners: Iterable[Commit]) -> None:
    """Deletes what other attempts than these left in an object store, complete or not."""
    kept = {name for commit in winners for name in commit.files}
    for part in (SHARDS_DIR, FRAGMENTS_DIR):
        attempts = [f"{part}/{name}" for name in folder.names(part) if attempt_of(name.split(".")[0])[1]]
        folder.remove([name for name in attempts if name not in kept])


def _read(folder: Folder, stem: str) -> bytes:
    return read_if_there(folder, f"{SHARDS_DIR}/{stem}{OK}") or b""


def _commit(stem: str, record: bytes) -> Commit | None:
    try:
        ok = json.loads(record)
        if not isinstance(ok["shard"], dict | None):
            return None
        return Commit(stem=stem, plan=ok["plan"], shard=ok["shard"], rows=ok["rows"], failed=ok["failed"])
    except (ValueError, KeyError, TypeError):
        return None


def _is_whole(commit: Commit, shards: Mapping[str, int], fragments: Mapping[str, int]) -> bool:
    if f"{commit.stem}.parquet" not in fragments:
        return False
    if commit.shard is None:
        return commit.rows == 0
    return commit.shard.get("bytes", -1) == shards.get(f"{commit.stem}.tar")
