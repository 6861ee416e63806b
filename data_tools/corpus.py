"""Videos and tracks -> dataset: plan, work, finalize. Interrupt it anywhere, run it again, get the same bytes.

Units that are committed are never done again; a finished dataset is left alone unless it is told to grow or to try failures again;
other inputs or settings are refused.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data_tools.atomic import remove_leftovers
from data_tools.corpus_plan import PLAN_FILE, Inputs, Policy, plan_corpus, write_plan
from data_tools.failures import Failures
from data_tools.finalize import finalize
from data_tools.forgotten import read_drops
from data_tools.plan import log_plan
from data_tools.ray_tasks import run_on_ray
from data_tools.shard_writer import FRAGMENTS_DIR, read_ok
from data_tools.sources import ShardSettings, Sources
from data_tools.units import PLAN_DIR, UnitResult, UnitSource, UnitTask, cut_unit, failure, make_unit
from taudl_dist.dataset.dataset import read_info
from taudl_dist.dataset.schema import DATASET_FILE, SHARDS_DIR
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress


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
        inputs: the other fields of `Inputs`.

    Raises:
        UserError: bad inputs, an output folder that holds something else, or more failures than the policy allows (what
            succeeded is kept).
    """
    out, policy = Path(out), policy or Policy()
    plan, made, sources = plan_corpus(
        Inputs(videos=videos, tracks=tracks, **inputs), out, settings=settings, policy=policy
    )
    if made:
        log_plan(plan)
        write_plan(out, made, is_first=not (out / PLAN_FILE).exists())
    todo = units_to_do(out, plan, policy)
    if is_finished(out, plan) and not todo and not made:
        left = _failures_left(out, plan)
        log(f"{out}: this dataset is finished already; nothing to do{left}")
        _remove_plan_tables(out, plan)
        return read_info(out)
    for part in (out, out / SHARDS_DIR, out / FRAGMENTS_DIR):
        part.mkdir(exist_ok=True)
        remove_leftovers(part)
    if any(read_ok(out, unit["name"], plan_digest=unit["digest"]) for unit in todo):
        (out / DATASET_FILE).unlink(missing_ok=True)  # its shards are about to change
    failures = Failures(plan=plan)
    _work(
        _tasks(out, todo, plan, sources, settings),
        failures,
        num_units=len(plan["units"]),
        workers=workers,
        policy=policy,
    )
    failures.add_committed(out)
    failures.write(out)
    failures.check(policy.max_failed_share)
    _finalize(out, plan, failures)
    return read_info(out)


def units_to_do(out: Path, plan: dict[str, Any], policy: Policy) -> list[dict[str, Any]]:
    """Units that are not committed, and those whose tracklets failed in part, if they are to be tried again."""
    has_dataset, finished = (out / DATASET_FILE).exists(), is_finished(out, plan)
    todo = []
    for unit in plan["units"]:
        ok = read_ok(out, unit["name"], plan_digest=unit["digest"])
        if ok is None:  # a finished dataset keeps the plan of the units it was allowed to do without
            is_wanted = policy.retry_failed or not (finished and (out / PLAN_DIR / f"{unit['name']}.parquet").exists())
        else:
            is_wanted = bool(ok["failed"]) and (policy.retry_failed or not has_dataset)
        if is_wanted:
            todo.append(unit)
    return todo


def is_finished(out: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds the dataset of this plan."""
    return (out / DATASET_FILE).exists() and read_info(out)["source"]["plan"] == plan["digest"]


def _failures_left(out: Path, plan: dict[str, Any]) -> str:
    failures = Failures(plan=plan)
    failures.add_committed(out)
    return f" ({failures.summary()}; --retry-failed tries these again)" if failures.summary() else ""


def _tasks(
    out: Path, todo: list[dict[str, Any]], plan: dict[str, Any], sources: Sources, settings: ShardSettings
) -> list[UnitTask]:
    videos = {one.name: one for one in sources.recordings}
    tasks = []
    for unit in todo:
        missing = [source["recording"] for source in unit["sources"] if source["recording"] not in videos]
        if missing:
            raise UserError(
                f"{out}: unit {unit['name']} is not done, and its video {missing[0]} is gone; bring it back"
            )
        if not (out / PLAN_DIR / f"{unit['name']}.parquet").exists():
            raise UserError(
                f"{out}: the shard of unit {unit['name']} is damaged or gone, and a finished dataset keeps no plan of its crops; make"
                " the dataset again in another --out"
            )
        tasks.append(
            UnitTask(
                folder=out.resolve(),
                unit=unit["name"],
                camera=unit["camera"],
                sources=tuple(_unit_source(source, videos[source["recording"]]) for source in unit["sources"]),
                num_crops=unit["crops"],
                max_height=settings.max_height,
                plan_digest=unit["digest"],
            )
        )
    if len(todo) < len(plan["units"]):
        log(f"{out}: going on; {len(plan['units']) - len(todo)} of {len(plan['units'])} units are done")
    return tasks


def _unit_source(source: dict[str, Any], recording) -> UnitSource:
    start = tuple(source["start"]) if source["start"] else None
    return UnitSource(video=Path(recording.video.path).resolve(), file=recording.file, start=start)


def _work(tasks: Sequence[UnitTask], failures: Failures, *, num_units: int, workers: int, policy: Policy) -> None:
    """Makes the units; one that fails does not stop the others, unless there is no room left on the disk or no hope."""
    done = 0
    if workers > 1 and len(tasks) > 1:
        steps: Generator = run_on_ray(make_unit, tasks, workers=workers)
        unit, total = "unit", len(tasks)
    else:
        steps, unit, total = _one_by_one(tasks), "crop", sum(task.num_crops for task in tasks)
    with closing(steps):
        for task, result in progress(steps, "cut crops", unit=unit, total=total):
            if result is None:  # a crop of a unit that goes on
                continue
            outcome = UnitResult(problem=_died(result)) if isinstance(result, Exception) else result
            done += outcome.problem is None
            if outcome.is_disk_full:
                raise UserError(
                    f"{task.folder}: no room left ({outcome.problem}); {num_units - len(tasks) + done} of {num_units} units are done"
                    " and kept: free some space and run the same command again"
                )
            failures.add(task.unit, outcome)
            failures.check_early(policy.max_failed_share)


def _died(error: Exception) -> str:
    return (
        f"its worker died each time it was tried ({type(error).__name__}): a crash in the video decoder, or not enough memory for"
        " --workers at once; re-encode the video with `ffmpeg -i in out.mp4`, or take fewer workers"
    )


def _one_by_one(tasks: Sequence[UnitTask]) -> Generator[tuple[UnitTask, UnitResult | None], None, None]:
    """Makes units in this process, yielding once a crop, and the result at a unit's end."""
    for task in tasks:
        failed: dict[str, str] = {}
        try:
            for crops in cut_unit(task, failed):
                yield from [(task, None)] * crops
            result = UnitResult(failed=failed)
        except (UserError, OSError, MemoryError) as error:
            result = failure(error)
        yield task, result


def _finalize(out: Path, plan: dict[str, Any], failures: Failures) -> None:
    counts = failures.counts()
    drops = read_drops(out)
    about = {
        "settings": {**plan["request"]["settings"], "interval_s": plan["interval_s"]},
        "encoder": plan["request"]["encoder"],
        "source": {"plan": plan["digest"], "videos": len(plan["recordings"])},
        **({"failures": counts} if any(counts.values()) else {}),
        **({"drops": len(drops)} if drops else {}),
    }
    finalize(
        out,
        units={unit["name"]: unit["digest"] for unit in plan["units"] if unit["name"] not in failures.units},
        cameras=[camera["name"] for camera in plan["cameras"]],
        about=about,
    )
    _remove_plan_tables(out, plan)


def _remove_plan_tables(out: Path, plan: dict[str, Any]) -> None:
    """What a finished dataset needs no more: the crops of all units that need not be tried again."""
    for unit in plan["units"] if (out / PLAN_DIR).exists() else []:
        ok = read_ok(out, unit["name"], plan_digest=unit["digest"])
        if ok and not ok["failed"]:
            (out / PLAN_DIR / f"{unit['name']}.parquet").unlink(missing_ok=True)
    if (out / PLAN_DIR).exists():
        remove_leftovers(out / PLAN_DIR)
        if not any((out / PLAN_DIR).iterdir()):
            (out / PLAN_DIR).rmdir()
