"""How far `taudl shard` is, told by its output folder alone: units of the plan, and the commit records that lie beside them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taudl_dist.dataset.schema import DATASET_FILE, SHARDS_DIR
from taudl_dist.errors import UserError
from taudl_dist.training.interval import clock, duration

_OK = ".ok.json"
_RECENT = 20
"""Units that the speed is taken from."""


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A dataset that is being made."""

    dataset: str
    state: str
    """finished, or unfinished: whether somebody works on it does not stand in the folder."""
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
        if self.last_age_s is not None:
            lines.append(f"  last        {duration(self.last_age_s)} ago")
        if self.units_per_s and self.left_s is not None and self.state != "finished":
            lines.append(f"  speed       {60 * self.units_per_s:.1f} units a minute, as long as somebody works on it")
            lines.append(f"  left        {duration(self.left_s)}, until {clock(self.left_s)}")
        return "\n".join(lines)


def shard_state(path: Path) -> ShardState:
    """Reads how far it is.

    Raises:
        UserError: the folder holds no plan of `taudl shard`.
    """
    finished = (path / DATASET_FILE).is_file()
    committed = sorted(file.stat().st_mtime for file in (path / SHARDS_DIR).glob(f"*{_OK}"))
    units = _planned(path, default=len(committed) if finished else None)
    recent = committed[-_RECENT:]
    span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
    rate = (len(recent) - 1) / span_s if span_s > 0 else None
    return ShardState(
        dataset=str(path),
        state="finished" if finished else "unfinished",
        units=units,
        done=len(committed),
        last_age_s=max(0.0, time.time() - committed[-1]) if committed else None,
        units_per_s=rate,
        left_s=(units - len(committed)) / rate if rate else None,
    )


def _planned(path: Path, *, default: int | None) -> int:
    file = path / "plan.json"
    try:
        return len(json.loads(file.read_bytes())["units"])
    except FileNotFoundError:
        if default is not None:  # imported benchmarks have no plan
            return default
        raise UserError(f"{path}: no plan of `taudl shard` in it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: damaged ({error!r}); see `taudl shard --help` on how to go on") from None
