"""Videos and tracks -> dataset: plan, work, finalize. Interrupt it anywhere, run it again, get the same bytes.

Units that are committed are never done again; a finished dataset is left alone unless it is told to grow or to try failures again;
other inputs or settings are refused.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.claim import Claim, claim, read_driver
from data_tools.commits import FRAGMENTS_DIR, Commit, read_commits, remove_losers
from data_tools.corpus_plan import Inputs, Policy, plan_corpus, write_plan
from data_tools.failures import Failures
from data_tools.finalize import finalize
from data_tools.folder import Folder, open_folder, read_if_there
from data_tools.forgotten import read_drops
from data_tools.plan import log_plan
from data_tools.ray_tasks import run_on_ray
from data_tools.recordings import Recording
from data_tools.sources import ShardSettings, Sources
from data_tools.unit_process import run_beside
from data_tools.units import PLAN_DIR, UnitResult, UnitSource, UnitTask, make_unit
from taudl_dist.dataset.dataset import parse_info
from taudl_dist.dataset.schema import DATASET_FILE, SHARDS_DIR
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

_CHECK_S = 5.0
"""Between two looks whether another driver has taken over."""


def shard_corpus(
    videos: str | Path,
    tracks: str | Path,
    out: str | Path,
    *,
    settings: ShardSettings,
    workers: int = 1,
    policy: Policy | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """Makes a dataset, or goes on with one that was begun, and returns its dataset.json.

    Args:
        videos, tracks, out: folders, or URIs of folders in an object store.
        inputs: the other fields of `Inputs`.

    Raises:
        UserError: bad inputs, an output folder that holds something else, or more failures than the policy allows (what
            succeeded is kept).
    """
    folder, policy = open_folder(out), policy or Policy()
    plan, made, sources = plan_corpus(
        Inputs(videos=videos, tracks=tracks, **inputs), folder, settings=settings, policy=policy
    )
    ours = claim(folder) if made or read_driver(folder) else None
    if ours and made:
        log_plan(plan)
        write_plan(folder, made, ours.check)
    state = read_state(folder, plan)
    todo = units_to_do(state, plan, policy)
    if state.is_finished and not todo and not ours:
        assert state.info
        log(f"{folder}: this dataset is finished already; nothing to do{_failures_left(folder, state, plan)}")
        remove_losers(folder, state.commits.values())
        _remove_plan_tables(folder, state.commits, state.planned)
        return state.info
    ours = ours or claim(folder)
    with ours.held():
        tasks = _tasks(folder, todo, plan, sources, settings, planned=state.planned)
        folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
        if any(unit["name"] in state.commits for unit in todo):
            folder.remove([DATASET_FILE])  # its shards are about to change
        failures = Failures(plan=plan)
        _work(tasks, failures, ours, num_units=len(plan["units"]), workers=workers, policy=policy)
        commits = state.commits | read_commits(folder, {unit["name"]: unit["digest"] for unit in todo})
        ours.check()
        failures.add_committed(folder, commits)
        failures.write(folder)
        failures.check(policy.max_failed_share)
        _finalize(folder, plan, failures, commits)
        _remove_plan_tables(folder, commits, state.planned)
    return parse_info(folder.read(DATASET_FILE), f"{folder}/{DATASET_FILE}")


@dataclass(frozen=True, kw_only=True)
class State:
    """What of a plan is there.

    commits: by unit. planned: units whose crops are still listed. info: dataset.json, whatever plan it is of.
    """

    commits: dict[str, Commit]
    planned: frozenset[str]
    info: dict[str, Any] | None
    is_finished: bool
    """Whether dataset.json is that of this plan."""


def read_state(folder: Folder, plan: dict[str, Any]) -> State:
    """What of a plan is there, in an existing folder or in none."""
    content = read_if_there(folder, DATASET_FILE)
    info = None if content is None else parse_info(content, f"{folder}/{DATASET_FILE}")
    return State(
        commits=read_commits(folder, {unit["name"]: unit["digest"] for unit in plan["units"]}),
        planned=frozenset(name.removesuffix(".parquet") for name in folder.names(PLAN_DIR)),
        info=info,
        is_finished=info is not None and info["source"]["plan"] == plan["digest"],
    )


def units_to_do(state: State, plan: dict[str, Any], policy: Policy) -> list[dict[str, Any]]:
    """Units that are not committed, and those whose tracklets failed in part, if they are to be tried again."""
    todo = []
    for unit in plan["units"]:
        commit = state.commits.get(unit["name"])
        if commit is None:  # a finished dataset keeps the plan of the units it was allowed to do without
            is_wanted = policy.retry_failed or not (state.is_finished and unit["name"] in state.planned)
        else:
            is_wanted = bool(commit.failed) and (policy.retry_failed or state.info is None)
        if is_wanted:
            todo.append(unit)
    return todo


def _failures_left(folder: Folder, state: State, plan: dict[str, Any]) -> str:
    failures = Failures(plan=plan)
    failures.add_committed(folder, state.commits)
    return f" ({failures.summary()}; --retry-failed tries these again)" if failures.summary() else ""


def _tasks(
    folder: Folder,
    todo: list[dict[str, Any]],
    plan: dict[str, Any],
    sources: Sources,
    settings: ShardSettings,
    *,
    planned: frozenset[str],
) -> list[UnitTask]:
    videos = {one.name: one for one in sources.recordings}
    tasks = []
    for unit in todo:
        missing = [source["recording"] for source in unit["sources"] if source["recording"] not in videos]
        if missing:
            raise UserError(
                f"{folder}: unit {unit['name']} is not done, and its video {missing[0]} is gone; bring it back"
            )
        if unit["name"] not in planned:
            raise UserError(
                f"{folder}: the shard of unit {unit['name']} is damaged or gone, and a finished dataset keeps no plan of its crops;"
                " make the dataset again in another --out"
            )
        tasks.append(
            UnitTask(
                folder=folder.absolute(),
                unit=unit["name"],
                camera=unit["camera"],
                sources=tuple(_unit_source(videos[source["recording"]]) for source in unit["sources"]),
                num_crops=unit["crops"],
                max_height=settings.max_height,
                plan_digest=unit["digest"],
            )
        )
    if len(todo) < len(plan["units"]):
        log(f"{folder}: going on; {len(plan['units']) - len(todo)} of {len(plan['units'])} units are done")
    return tasks


def _unit_source(recording: Recording) -> UnitSource:
    return UnitSource(video=recording.source.absolute(), file=recording.file)


def _work(
    tasks: Sequence[UnitTask], failures: Failures, ours: Claim, *, num_units: int, workers: int, policy: Policy
) -> None:
    """Makes the units; one that fails does not stop the others, unless there is no room left on the disk or no hope."""
    done, check_at = 0, 0.0
    if workers > 1 and len(tasks) > 1:
        steps: Generator = run_on_ray(make_unit, tasks, workers=workers)
        unit, total = "unit", len(tasks)
    else:
        steps, unit, total = run_beside(tasks), "crop", sum(task.num_crops for task in tasks)
    with closing(steps):
        for task, result in progress(steps, "cut crops", unit=unit, total=total):
            if result is None:  # a crop of a unit that goes on
                continue
            outcome = UnitResult(problem=_died(result)) if isinstance(result, Exception) else result
            done += outcome.problem is None
            if outcome.is_target_lost:
                raise UserError(
                    f"{task.folder}: cannot be written to any more ({outcome.problem}); {num_units - len(tasks) + done} of {num_units}"
                    " units are done and kept: mend that (free some space, renew the access) and run the same command again"
                )
            # not each time: a look into a store takes as long as a large cluster needs for several units
            if outcome.problem or time.monotonic() > check_at:
                ours.check()
                check_at = time.monotonic() + _CHECK_S
            failures.add(task.unit, outcome)
            failures.check_early(policy.max_failed_share)


def _died(error: Exception) -> str:
    what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return (
        f"its worker died each time it was tried ({what}): a crash in the video decoder, or not enough memory for --workers at once;"
        " re-encode the video with `ffmpeg -i in out.mp4`, or take fewer workers"
    )


def _finalize(folder: Folder, plan: dict[str, Any], failures: Failures, commits: Mapping[str, Commit]) -> None:
    counts = failures.counts()
    drops = read_drops(folder)
    about = {
        "settings": {**plan["request"]["settings"], "interval_s": plan["interval_s"]},
        "encoder": plan["request"]["encoder"],
        "source": {"plan": plan["digest"], "videos": len(plan["recordings"])},
        **({"failures": counts} if any(counts.values()) else {}),
        **({"drops": len(drops)} if drops else {}),
    }
    finalize(
        folder,
        units={unit["name"]: unit["digest"] for unit in plan["units"] if unit["name"] not in failures.units},
        cameras=[camera["name"] for camera in plan["cameras"]],
        about=about,
        commits=commits,
    )


def _remove_plan_tables(folder: Folder, commits: Mapping[str, Commit], planned: frozenset[str]) -> None:
    """What a finished dataset needs no more: the crops of all units that need not be tried again."""
    done = {unit for unit in planned if unit in commits and not commits[unit].failed}
    folder.remove(f"{PLAN_DIR}/{unit}.parquet" for unit in sorted(done))
    if done == planned:
        folder.remove_part(PLAN_DIR)
