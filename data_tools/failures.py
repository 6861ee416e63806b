"""What failed while a corpus was made, at three levels (video, unit, tracklet), against what is allowed to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_tools.commits import Commit
from data_tools.folder import Folder, read_if_there, write_json
from data_tools.units import UnitResult
from taudl_dist.errors import UserError

FAILURES_FILE = "failures.json"
_FEW = 10
"""Failed units before a run may be given up early."""


@dataclass
class Failures:
    """Problems by video, unit, and (unit, tracklet)."""

    plan: dict[str, Any]
    units: dict[str, str] = field(default_factory=dict)
    tracklets: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, unit: str, result: UnitResult) -> None:
        """Notes what became of a unit."""
        if result.problem is not None:
            self.units[unit] = result.problem
        elif result.failed:
            self.tracklets[unit] = result.failed

    def add_committed(self, folder: Folder, commits: Mapping[str, Commit]) -> None:
        """Notes what the commit records tell: tracklets that failed, and units without a record.

        A unit with a record is there, also if the last attempt at it failed: an earlier one, or another driver's, did not.
        """
        before = _earlier(folder)
        for unit in (one["name"] for one in self.plan["units"]):
            commit = commits.get(unit)
            if commit is None:
                self.units.setdefault(unit, before.get(unit, "not done"))
                continue
            self.units.pop(unit, None)
            if commit.failed:
                self.tracklets[unit] = commit.failed

    def counts(self) -> dict[str, int]:
        """Videos, units and tracklets that are missing; a unit's tracklets are not counted again."""
        return {
            "videos": len(self.plan["failed"]),
            "units": len(self.units),
            "tracklets": sum(len(failed) for failed in self.tracklets.values()),
        }

    def summary(self) -> str:
        """The counts in words; empty where nothing failed."""
        return ", ".join(f"{count} {name} failed" for name, count in self.counts().items() if count)

    def write(self, folder: Folder) -> None:
        """Writes failures.json, a record per failure, or removes it where nothing failed."""
        records = list(self._records())
        if records:
            write_json(folder, FAILURES_FILE, records)
        else:
            folder.remove([FAILURES_FILE])

    def check(self, max_share: float) -> None:
        """
        Raises:
            UserError: more of the planned tracklets are missing than allowed.
        """
        lost, total = self._lost(), sum(unit["tracklets"] for unit in self.plan["units"])
        if lost > max_share * total or (total and lost == total):
            listed = [
                f"  {record['name']}: {record['problem']}" for record in self._records() if record["level"] != "video"
            ]
            raise UserError(
                f"{len(self.units)} of {len(self.plan['units'])} units failed, {lost} of {total} tracklets are missing; the others are"
                f" kept, run the same command again to retry these, or allow them with --max-failed-share (all: {FAILURES_FILE})"
                f"{'; the first 10' * (len(listed) > _FEW)}:\n" + "\n".join(listed[:_FEW])
            )

    def check_early(self, max_share: float) -> None:
        """
        Raises:
            UserError: so much failed already that the rest cannot change it, and not only a few units.
        """
        if max_share and len(self.units) > _FEW:
            self.check(max_share)

    def _lost(self) -> int:
        whole = sum(unit["tracklets"] for unit in self.plan["units"] if unit["name"] in self.units)
        return whole + self.counts()["tracklets"]

    def _records(self) -> Iterator[dict[str, str]]:
        for name, problem in sorted(self.plan["failed"].items()):
            yield {"level": "video", "name": name, "problem": problem}
        for name, problem in sorted(self.units.items()):
            yield {"level": "unit", "name": name, "problem": problem}
        for unit, failed in sorted(self.tracklets.items()):
            for key, problem in sorted(failed.items()):
                yield {"level": "tracklet", "name": key, "unit": unit, "problem": problem}


def _earlier(folder: Folder) -> dict[str, str]:
    """Why units failed in an earlier run."""
    content = read_if_there(folder, FAILURES_FILE)
    try:
        records = json.loads(content or b"[]")
        return {record["name"]: record["problem"] for record in records if record["level"] == "unit"}
    except (ValueError, KeyError, TypeError):  # a report; what is done stands in the commit records
        return {}
