"""Where a run is, told by its folder alone: no Ray, no MLflow, no torch, nothing that the run would notice."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taudl_dist.config import load_yaml
from taudl_dist.errors import UsageError, UserError
from taudl_dist.training.evaluations import Evaluations
from taudl_dist.training.heartbeat import DRIVER, INTERVAL_S, SILENT_S, Beat, find_stuck, read_beat, read_beats
from taudl_dist.training.run_folder import RunFolder
from taudl_dist.training.saved import COMPLETE, newest, step_of

_TAIL_BYTES = 64 * 1024
_RECENT_STEPS = 50
_NOTICES = 5
_BEGINNING_S = 60
"""Between run.json and the first sign of life, while MLflow takes up the run."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run as it is now; what is not known is None."""

    run: str
    state: str
    """running, stuck, finished, interrupted or failed."""
    why: str
    """What `state` rests on, in words."""
    step: int
    """Steps done."""
    steps: int
    steps_per_s: float | None = None
    images_per_s: float | None = None
    data_wait: float | None = None
    """Share of the time that worker 0 waits for data."""
    loss: float | None = None
    left_s: float | None = None
    """Estimate of the time to the end."""
    checkpoint_step: int | None = None
    checkpoint_age_s: float | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Evaluated checkpoints: step, and metric with its value, or error."""
    best: dict[str, Any] | None = None
    """That of the best one."""
    starts: int = 0
    """Times the workers were started; one more than restarts."""
    started_from: int | None = None
    """Step the newest start went on from."""
    losses: int = 0
    """Times workers were lost, as Ray's controller told."""
    notices: list[str] = field(default_factory=list)
    """Newest lines of the log that are no step's."""
    workers: list[dict[str, Any]] = field(default_factory=list)
    """Those of the newest start: rank, host, pid, what they do."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("finished", "interrupted", "failed")


def run_state(path: str | Path) -> RunState:
    """Reads where a run is.

    Raises:
        UserError: the folder is not a run's, or its records are damaged.
    """
    run = RunFolder(path=Path(path))
    _check(run)
    now = time.time()
    info = run.info()
    attempts = info["attempts"]
    attempt = attempts[-1]["attempt"] if attempts else ""
    rows = _rows(run.metrics)
    steps = _steps(run)
    done = int(rows[-1]["step"]) + 1 if rows else 0
    beats = read_beats(run.workers, attempt=attempt) if attempt else []
    state, why = _judge(run, info, beats, steps=steps, now=now)
    saved = newest(run.checkpoints, trusts=run.trusts)
    record = Evaluations(run=run.path)
    best = record.best()
    log = _tail(run.log).decode(errors="replace").splitlines()
    notices = [line for line in log if line and not line.startswith("step ")]
    pace = _pace(rows)
    rate = pace.get("steps_per_s") if state == "running" else None
    return RunState(
        run=str(path),
        state=state,
        why=why,
        step=done,
        steps=steps,
        **pace,
        left_s=(steps - done) / rate if rate else None,
        checkpoint_step=step_of(saved) if saved else None,
        checkpoint_age_s=_age_s(saved / COMPLETE, now=now) if saved else None,
        evaluations=[_evaluation(row) for row in record.rows()],
        best=_evaluation(best) if best else None,
        starts=len(attempts),
        started_from=attempts[-1]["from_step"] if attempts else None,
        losses=sum(line.startswith("lost ") for line in log),
        notices=notices[-_NOTICES:],
        workers=[asdict(beat) for beat in beats] if state in ("running", "stuck") else [],
    )


def _age_s(path: Path, *, now: float) -> float | None:
    """How old a file is; one that another machine's clock dates in the future is new, and one that has been pruned meanwhile None."""
    try:
        return max(0.0, now - path.stat().st_mtime)
    except FileNotFoundError:
        return None


def _evaluation(row: dict[str, Any]) -> dict[str, Any]:
    if "error" in row:
        return {"step": row["step"], "error": row["error"]}
    return {"step": row["step"], "metric": row["metric"], "value": row["metrics"].get(row["metric"])}


def _check(run: RunFolder) -> None:
    if not run.path.is_dir():
        raise UserError(f"{run.path}: no such folder; expected the --out of a `taudl train`")
    if not (run.path / "run.json").is_file():
        held = sorted(entry.name for entry in run.path.iterdir())[:3]
        raise UserError(
            f"{run.path}: not a run (no run.json; it holds {', '.join(held) or 'nothing'}); expected the --out of a `taudl train`"
        )


def _judge(run: RunFolder, info: dict[str, Any], beats: list[Beat], *, steps: int, now: float) -> tuple[str, str]:
    """The state, and what it rests on."""
    outcome, driver = info["outcome"] or {}, read_beat(run.workers / DRIVER)
    again = f"go on with: {run.resume_command}"
    if outcome and outcome.get("step", 0) >= steps:
        return "finished", "all steps are done"
    if driver.get("state") in ("failed", "interrupted"):
        why = str(driver.get("why") or "as its driver told")
        return str(driver["state"]), why if "--resume" in why else f"{why}; {again}"
    if outcome:
        return "interrupted", f"stopped after {outcome.get('step')} steps; {again}"
    heard = [beat for beat in beats if not beat.is_silent and not beat.has_ended]
    who = f"pid {driver['pid']} on {driver.get('host')}" if "pid" in driver else "unknown"
    is_driven = bool(driver) and driver["age_s"] < SILENT_S + 3 * INTERVAL_S
    if not driver and not beats and now - (run.path / "run.json").stat().st_mtime < _BEGINNING_S:
        return "running", "it has just been begun"
    if not is_driven and not heard:
        seen = f"its driver ({who}) was last seen {driver['age_s']:.0f} s ago" if driver else "nobody drives it"
        return "interrupted", f"{seen}: killed, or its machine is gone; {again}"
    stuck = find_stuck(beats)
    if stuck:
        return "stuck", str(stuck)
    if not heard:
        return "running", f"no worker at work: they are being started, or wait for room (driver: {who})"
    driven = f"driver {who}" if is_driven else f"whose driver ({who}) is silent"
    return "running", f"{len(heard)} worker{'s' * (len(heard) > 1)}, {driven}"


def _steps(run: RunFolder) -> int:
    """Steps the run is to have."""
    path = run.path / "config.yaml"
    try:
        steps = load_yaml(path).get("steps")
    except UsageError as error:
        raise UserError(f"{path} is not what the run wrote ({error})") from None
    if not isinstance(steps, int):
        raise UserError(f"{path}: steps is {steps!r}, expected a number; the file was changed")
    return steps


def _rows(path: Path) -> list[dict[str, Any]]:
    """The newest whole lines of metrics.jsonl."""
    rows = []
    for line in _tail(path).splitlines():
        try:
            row = json.loads(line)
            numbers = {key: float(row[key]) for key in ("step", "time", "loss", "images_per_s", "data_wait_s")}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # the first is cut by the window, the last by its writer
        if all(map(math.isfinite, numbers.values())):
            rows.append(numbers)
    return rows[-_RECENT_STEPS:]


def _pace(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss and speed over the last steps; a pause between two starts does not count."""
    if not rows:
        return {}
    pairs = list(itertools.pairwise(rows))
    typical = sorted(after["time"] - before["time"] for before, after in pairs)
    longest = 20 * typical[len(typical) // 2] + 1 if pairs else 0.0
    usual = [(before, after) for before, after in pairs if 0 <= after["time"] - before["time"] <= longest]
    seconds = sum(after["time"] - before["time"] for before, after in usual)
    wait_s = sum(after["data_wait_s"] for _, after in usual)
    images = [row["images_per_s"] for row in rows]
    return {
        "loss": rows[-1]["loss"],
        "images_per_s": sum(images) / len(images),
        "steps_per_s": len(usual) / seconds if seconds > 0 else None,
        "data_wait": min(1.0, wait_s / seconds) if seconds > 0 else None,
    }


def _tail(path: Path) -> bytes:
    """The end of a file that somebody may be writing; empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES)
    except FileNotFoundError:
        return b""
