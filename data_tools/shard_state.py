"""How far `taudl shard` is, told by its output folder alone: units of the plan, and the commit records that lie there."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from data_tools.claim import read_driver
from data_tools.commits import OK
from data_tools.corpus_plan import PLAN_FILE
from data_tools.folder import Folder, attempt_of, read_if_there
from taudl_dist.dataset.dataset import parse_info
from taudl_dist.dataset.schema import DATASET_FILE, SHARDS_DIR
from taudl_dist.errors import UserError
from taudl_dist.training.interval import clock, duration

_RECENT = 20
"""Units that the speed is taken from."""


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A dataset that is being made."""

    dataset: str
    state: str
    """finished, or unfinished."""
    driver: dict[str, Any] | None
    """Host, pid and start of the `taudl shard` that works on it, or was killed; None where none does."""
    units: int
    """Of the plan."""
    done: int
    """Committed."""
    last_age_s: float | None
    """Since the newest commit."""
    units_per_s: float | None
    left_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.dataset}: {self.state}, {self.done} of {self.units} units done"]
        if self.driver:
            who = "{host}, pid {pid}, since {since}".format(**self.driver)
            lines.append(f"  driver      {who}; if it does not run any more, the same command goes on")
        if self.last_age_s is not None:
            lines.append(f"  last        {duration(self.last_age_s)} ago")
        if self.units_per_s and self.left_s is not None and self.state != "finished":
            lines.append(f"  speed       {60 * self.units_per_s:.1f} units a minute, as long as somebody works on it")
            lines.append(f"  left        {duration(self.left_s)}, until {clock(self.left_s)}")
        return "\n".join(lines)


def shard_state(folder: Folder) -> ShardState:
    """Reads how far it is.

    Raises:
        UserError: the folder holds no plan of `taudl shard`.
    """
    plan, dataset_json, driver = _plan(folder), read_if_there(folder, DATASET_FILE), read_driver(folder)
    info = None if dataset_json is None else parse_info(dataset_json, f"{folder}/{DATASET_FILE}")
    if plan is None and info is None:
        raise UserError(f"{folder}: no plan of `taudl shard` in it")
    newest: dict[str, float] = {}  # of the attempts at a unit
    for name, changed in folder.changed(SHARDS_DIR).items():
        unit = attempt_of(name.removesuffix(OK))[0]
        if name.endswith(OK) and (plan is None or unit in plan["units"]):
            newest[unit] = max(changed, newest.get(unit, changed))
    units = len(newest if plan is None else plan["units"])  # imported benchmarks have no plan
    is_finished = info is not None and driver is None and (plan is None or info["source"]["plan"] == plan["digest"])
    recent = sorted(newest.values())[-_RECENT:]
    span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
    rate = (len(recent) - 1) / span_s if span_s > 0 else None
    return ShardState(
        dataset=str(folder),
        state="finished" if is_finished else "unfinished",
        driver=driver,
        units=units,
        done=len(newest),
        last_age_s=max(0.0, time.time() - recent[-1]) if recent else None,
        units_per_s=rate,
        left_s=(units - len(newest)) / rate if rate else None,
    )


def _plan(folder: Folder) -> dict[str, Any] | None:
    """Digest and names of the units of plan.json."""
    content = read_if_there(folder, PLAN_FILE)
    if content is None:
        return None
    try:
        plan = json.loads(content)
        return {"digest": plan["digest"], "units": {unit["name"] for unit in plan["units"]}}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder}/{PLAN_FILE}: damaged ({error!r}); see `taudl shard --help` on how to go on"
        ) from None
