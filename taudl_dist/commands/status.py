"""`taudl status`: where a run is, or a dataset that is being made, told by its folder alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from taudl_dist.commands import parse
from taudl_dist.errors import UsageError
from taudl_dist.progress import clean

if TYPE_CHECKING:
    from taudl_dist.training.run_state import RunState

_INTERVAL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class StatusArgs:
    """Where a training run is: step, state, last checkpoint, speed, estimate of the end, restarts, and what each worker does.

    Works while the run runs, from any machine that sees its folder, and needs neither Ray nor MLflow. Of a dataset that `taudl
    shard` is making it tells how many units are done.

    Example: taudl status runs/first
    """

    run: Annotated[str, tyro.conf.Positional] = ""
    """Run folder, the --out of `taudl train`; or the --out of `taudl shard`, which may be an s3:// or gs:// URI."""
    json: bool = False
    """Print the result as one JSON object."""
    watch: bool = False
    """Print it again every two seconds until the run ends."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints its result."""
    args = parse(StatusArgs, argv, command="status")
    if not args.run:
        raise UsageError("the run folder is missing; for instance: taudl status runs/first")
    while True:
        is_over = _show(args.run, as_json=args.json, again=args.watch)
        if is_over or not args.watch:
            return
        time.sleep(_INTERVAL_S)


def _show(place: str, *, as_json: bool, again: bool) -> bool:
    """Prints the state; whether it is the last."""
    from taudl_dist.dataset.location import local_path
    from taudl_dist.training.run_state import run_state

    if _is_dataset(place):
        from data_tools.folder import open_folder
        from data_tools.shard_state import shard_state

        corpus = shard_state(open_folder(place))
        found, text, is_over = corpus.as_dict(), corpus.as_text(), corpus.state == "finished"
    else:
        run = run_state(local_path(place))
        found, text, is_over = run.as_dict(), as_text(run), run.is_over
    if again and sys.stdout.isatty() and not as_json:
        print("\033[H\033[2J", end="")
    print(json.dumps(found) if as_json else clean(text), flush=True)
    return is_over


def _is_dataset(place: str) -> bool:
    """Runs lie on a disk, and a dataset may lie in an object store."""
    from taudl_dist.dataset.location import is_remote, local_path

    names = {path.name for path in local_path(place).glob("*.json")}
    return is_remote(place) or ("run.json" not in names and bool(names & {"plan.json", "dataset.json"}))


def as_text(state: RunState) -> str:
    """A few lines for people."""
    from taudl_dist.training.interval import clock, duration, size

    share = f" ({state.step / state.steps:.0%})" if state.steps else ""
    lines = [
        f"{state.run}: {state.state}, step {state.step} of {state.steps}{share}",
        f"  {'why' if state.is_over or state.state == 'stuck' else 'who':11} {state.why}",
    ]

    if state.steps_per_s is not None and state.images_per_s is not None and state.data_wait is not None:
        speed = f"{state.steps_per_s:.3g} steps/s, {state.images_per_s:.0f} images/s, data wait {state.data_wait:.0%}"
        lines.append(f"  {'speed':11} {speed}")
    if state.loss is not None:
        lines.append(f"  {'loss':11} {state.loss:.4f}")
    if state.left_s is not None:
        lines.append(f"  {'left':11} {duration(state.left_s)}, until {clock(state.left_s)}")
    saved = "none yet"
    if state.checkpoint_step is not None and state.checkpoint_age_s is not None:
        saved = f"step {state.checkpoint_step}, {duration(state.checkpoint_age_s)} ago"
    lines.append(f"  {'checkpoint':11} {saved}")
    if state.best:
        failed = sum("error" in evaluation for evaluation in state.evaluations)
        counts = f"of {len(state.evaluations)} evaluated{f', {failed} could not be' if failed else ''}"
        best = f"step {state.best['step']}, {state.best['metric']} {state.best['value']:.4f}, {counts}"
        lines.append(f"  {'best':11} {best}")
    if state.starts:
        lost = f"; workers lost {state.losses} time{'s' * (state.losses > 1)}" if state.losses else ""
        lines.append(
            f"  {'restarts':11} {state.starts - 1}{f', the last from step {state.started_from}' if state.starts > 1 else ''}{lost}"
        )
    for beat in state.workers:
        what = beat["collective"] or beat["where"]
        lines.append(
            f"  worker {beat['rank']:<4} {beat['host']}, pid {beat['pid']}, {size(beat['rss_bytes'])}:"
            f" {beat['doing']}{f' ({what})' if what else ''}, {duration(beat['for_s'] + beat['age_s'])}"
            + (f", silent for {beat['age_s']:.0f} s" if beat["age_s"] > 10 * beat["interval_s"] else "")
        )
    lines += [f"  {'log':11} {line}" for line in state.notices]
    return "\n".join(lines)
