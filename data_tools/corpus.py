"""Videos and tracks -> dataset: plan, work, finalize. Interrupt it anywhere, run it again, get the same bytes.

Units that are committed are never done again; a finished dataset is left alone; other inputs or settings are refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_tools.atomic import TEMPORARY, remove_leftovers, whole_file, write_json
from data_tools.finalize import finalize
from data_tools.plan import Plan, log_plan, make_plan
from data_tools.ray_tasks import run_on_ray
from data_tools.shard_writer import FRAGMENTS_DIR, read_ok
from data_tools.sources import ShardSettings, Sources, describe_request, find_sources
from data_tools.units import PLAN_DIR, UnitTask, cut_unit, make_unit
from taudl_dist.config import flatten
from taudl_dist.dataset.dataset import read_info
from taudl_dist.dataset.schema import DATASET_FILE, SHARDS_DIR
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

PLAN_FILE = "plan.json"


def shard_corpus(
    videos: str | Path,
    tracks: str | Path,
    out: str | Path,
    *,
    settings: ShardSettings,
    workers: int = 1,
    format: str = "auto",
    frame_base: int | None = None,
    truth: str = "auto",
) -> dict[str, Any]:
    """Makes a dataset, or goes on with one that was begun, and returns its dataset.json.

    Raises:
        UserError: bad inputs, an output folder that holds something else, or units that failed (the others are kept).
    """
    out = Path(out)
    _refuse_foreign(out)
    sources = find_sources(videos, tracks, format=format, frame_base=frame_base, truth=truth)
    plan = _plan(out, sources, settings)
    if (out / DATASET_FILE).exists():
        log(f"{out}: this dataset is finished already; nothing to do")
        shutil.rmtree(out / PLAN_DIR, ignore_errors=True)
        return read_info(out)
    _work(out, plan, sources, settings, workers)
    about = {
        "settings": {**plan["request"]["settings"], "interval_s": plan["interval_s"]},
        "encoder": plan["request"]["encoder"],
        "source": {"plan": plan["digest"], "videos": plan["request"]["videos"], "tracks": plan["request"]["tracks"]},
    }
    finalize(
        out,
        units=[unit["name"] for unit in plan["units"]],
        cameras=[camera["name"] for camera in plan["cameras"]],
        plan_digest=plan["digest"],
        about=about,
    )
    shutil.rmtree(out / PLAN_DIR)
    return read_info(out)


def _refuse_foreign(out: Path) -> None:
    """Only a folder of ours may hold something: one with a plan, or one that was interrupted while it was planned."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write the dataset into")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    foreign = sorted(name for name in names - {PLAN_DIR} if TEMPORARY not in name)
    if foreign and PLAN_FILE not in names:
        raise UserError(
            f"{out}: exists and holds something else ({', '.join(foreign[:3])}); choose another --out, or delete it first"
        )


def _plan(out: Path, sources: Sources, settings: ShardSettings) -> dict[str, Any]:
    """The plan that was made before, when it was made for the same request; else a new one, in an empty folder."""
    request = describe_request(sources, settings)
    file = out / PLAN_FILE
    if file.exists():
        try:
            plan = json.loads(file.read_text())
            before = dict(plan["request"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error}); delete {out} and run the command again") from None
        _refuse_other_request(out, before, request)
        return plan
    made = make_plan(sources, settings, request)
    log_plan(made.content)
    _write_plan(out, made)
    return made.content


def _refuse_other_request(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    for name in [*old, *new]:
        if old.get(name) != new.get(name):
            raise UserError(
                f"{out}: was begun with {name} = {old.get(name)!r}, now it is {new.get(name)!r}; a dataset is made from one"
                " set of inputs and settings: choose another --out, or run with the same ones"
            )


def _write_plan(out: Path, plan: Plan) -> None:
    """plan.json comes last; what an earlier attempt left of another plan goes first."""
    shutil.rmtree(out / PLAN_DIR, ignore_errors=True)
    (out / PLAN_DIR).mkdir(parents=True)
    for unit, crops in plan.crops.items():
        with whole_file(out / PLAN_DIR / f"{unit}.parquet") as temporary:
            pq.write_table(crops, temporary)
    write_json(out / PLAN_FILE, plan.content)


def _work(out: Path, plan: dict[str, Any], sources: Sources, settings: ShardSettings, workers: int) -> None:
    """Makes every unit that is not committed; failures are listed when all others are done."""
    for part in (out, out / SHARDS_DIR, out / FRAGMENTS_DIR):
        part.mkdir(exist_ok=True)
        remove_leftovers(part)
    todo = [
        UnitTask(
            folder=out.resolve(),
            unit=unit["name"],
            camera=unit["camera"],
            video=Path(sources.videos[unit["camera"]].path).resolve(),
            start=tuple(unit["start"]) if unit["start"] else None,
            num_crops=unit["crops"],
            max_height=settings.max_height,
            plan_digest=plan["digest"],
        )
        for unit in plan["units"]
        if read_ok(out, unit["name"], plan_digest=plan["digest"]) is None
    ]
    if len(todo) < len(plan["units"]):
        log(f"{out}: going on; {len(plan['units']) - len(todo)} of {len(plan['units'])} units are done")
    failures: dict[str, str] = {}
    if workers > 1 and len(todo) > 1:
        results = run_on_ray(make_unit, todo, workers=workers)
        for task, problem in progress(results, "cut crops", unit="unit", total=len(todo)):
            if problem is not None:
                failures[task.unit] = str(problem)
    else:
        crops = sum(task.num_crops for task in todo)
        for _ in progress(_one_by_one(todo, failures), "cut crops", unit="crop", total=crops):
            pass
    if failures:
        listed = "\n".join(f"  {unit}: {problem}" for unit, problem in sorted(failures.items())[:10])
        raise UserError(
            f"{len(failures)} of {len(plan['units'])} units failed; the others are kept, run the same command again to retry"
            f" these{' (the first 10)' * (len(failures) > 10)}:\n{listed}"
        )


def _one_by_one(tasks: list[UnitTask], failures: dict[str, str]) -> Iterator[None]:
    """Makes units in this process, yielding once a crop."""
    for task in tasks:
        try:
            for crops in cut_unit(task):
                yield from [None] * crops
        except UserError as error:
            failures[task.unit] = str(error)
