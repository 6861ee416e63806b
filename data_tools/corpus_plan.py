"""The plan of a corpus as its folder has it: made, gone on with, grown, or refused.

Settings, encoder and the videos that were taken in stay; new videos come in when that is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.atomic import TEMPORARY
from data_tools.claim import DRIVER_FILE
from data_tools.crop_tables import CropTables
from data_tools.folder import Folder, read_if_there, write_json
from data_tools.forgotten import from_json, read_drops
from data_tools.plan import FORMAT, VERSION, Plan, make_plan
from data_tools.recording_tracks import some
from data_tools.sources import ShardSettings, Sources, describe_recording, describe_settings, find_sources
from data_tools.tracks_copy import local_tracks
from data_tools.units import PLAN_DIR
from taudl_dist.config import flatten
from taudl_dist.dataset.schema import DATASET_FILE
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

PLAN_FILE = "plan.json"
DROP_FILE = "drop.json"
"""There while a drop is in progress."""

_TABLE = re.compile(rf"-\d{{5,}}\.parquet($|{re.escape(TEMPORARY)})")
"""The name of a unit's crops."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where a corpus comes from, as `find_sources` takes it."""

    videos: str | Path
    tracks: str | Path
    format: str = "auto"
    frame_base: int | None = None
    truth: str = "auto"
    starts: str = ""
    start_pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do about failures and new videos.

    max_failed_share: of the videos, and of the planned tracklets, that may be missing in a finished dataset.
    retry_failed: try what failed again, in a finished dataset too. extend: take videos in that the plan does not know.
    """

    max_failed_share: float = 0.0
    retry_failed: bool = False
    extend: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_share < 1:
            raise UsageError(f"--max-failed-share {self.max_failed_share}: expected a share from 0 to below 1")


def plan_corpus(
    inputs: Inputs, out: Folder, *, settings: ShardSettings, policy: Policy
) -> tuple[dict[str, Any], Plan | None, Sources]:
    """The plan that holds from now on, what is new in it (None: nothing), and the inputs; nothing is written.

    Raises:
        UserError: as `shard_corpus`.
    """
    has_dataset = DATASET_FILE in _refuse_foreign(out)
    request = describe_settings(settings)
    before = _read_plan(out)
    if before:
        _refuse_other(out, "", before["request"], request)
    with local_tracks(inputs.tracks, inputs.truth) as copies:
        here = replace(inputs, tracks=copies.tracks, truth=copies.truth)
        known = before["recordings"] if before else {}
        sources = find_sources(**vars(here), known=known)
        sources.failed.update({name: copies.named(problem) for name, problem in sources.failed.items()})
        plan, made = _plan(out, sources, request, before, has_dataset, settings=settings, policy=policy)
        plan["failed"] = {name: copies.named(problem) for name, problem in plan["failed"].items()}
        if made or not has_dataset:
            _check_failed(plan, policy)
    return plan, made, sources


def _plan(
    out: Folder,
    sources: Sources,
    request: dict[str, Any],
    before: dict[str, Any] | None,
    has_dataset: bool,
    *,
    settings: ShardSettings,
    policy: Policy,
) -> tuple[dict[str, Any], Plan | None]:
    """The plan from now on, and what is new in it."""
    known = before["recordings"] if before else {}
    identities = {one.name: describe_recording(one, sources) for one in sources.recordings}
    for name in known.keys() & identities.keys():
        _refuse_other(out, f"{name}.", {key: known[name].get(key) for key in identities[name]}, identities[name])
    new = [one for one in sources.recordings if one.name not in known]
    failed = {name: problem for name, problem in sources.failed.items() if name not in known}
    if before:
        _refuse_growth(out, {one.name for one in new} | failed.keys(), before, policy)
        _log_gone(out, known.keys() - identities.keys())
        if has_dataset and not policy.retry_failed:  # an unfinished dataset tries everything again that failed
            new = [one for one in new if one.name not in before["failed"]]
            failed = {**before["failed"], **failed}
    if not before or new:
        made = make_plan(
            sources, new, settings, request, identities=identities, before=before, failed=failed,
            drops=[from_json(drop["forget"]) for drop in read_drops(out)],
        )  # fmt: skip
    elif failed != before["failed"]:
        made = Plan(content={**before, "failed": failed}, crops=CropTables())
    else:
        made = None
    plan = made.content if made else before
    assert plan is not None
    return plan, made


def _refuse_growth(out: Folder, names: set[str], before: dict[str, Any], policy: Policy) -> None:
    fresh = sorted(names - before["failed"].keys())
    if fresh and not policy.extend:
        raise UserError(
            f"{out}: was made of {len(before['recordings'])} videos, and there are {len(fresh)} new ones now: {some(fresh)}; run with"
            " --extend to add them, or choose another --out"
        )


def _log_gone(out: Folder, names: set[str]) -> None:
    if names:
        log(
            f"{out}: {len(names)} of its videos are not in the folder any more ({some(sorted(names))}); their shards stay (see"
            " `taudl drop`)"
        )


def _check_failed(plan: dict[str, Any], policy: Policy) -> None:
    failed = plan["failed"]
    total = len(plan["recordings"]) + len(failed)
    if len(failed) > policy.max_failed_share * total:
        problems = list(dict.fromkeys(failed.values()))
        if len(problems) == 1:
            raise UserError(problems[0])
        listed = "\n".join(f"  {problem}" for problem in problems[:10])
        raise UserError(
            f"{len(failed)} of {total} videos cannot be used; mend or remove them, or allow a share with --max-failed-share"
            f"{' (the first 10)' * (len(problems) > 10)}:\n{listed}"
        )


def _refuse_foreign(out: Folder) -> set[str]:
    """What stands in the folder. Only one of ours may hold something: with a plan, or interrupted while it was planned."""
    names = out.entries()
    if DROP_FILE in names:
        raise UserError(f"{out}: a drop was interrupted; run `taudl drop {out} --resume` first")
    if PLAN_FILE not in names:
        foreign = {name for name in names - {PLAN_DIR, DRIVER_FILE} if TEMPORARY not in name}
        foreign |= {f"{PLAN_DIR}/{name}" for name in out.names(PLAN_DIR) if not _TABLE.search(name)}
        if foreign:
            raise UserError(_foreign(out, sorted(foreign)))
    return names


def _foreign(out: Folder, names: list[str]) -> str:
    return f"{out}: exists and holds something else ({', '.join(names[:3])}); choose another --out, or delete it first"


def _read_plan(out: Folder) -> dict[str, Any] | None:
    file, content = f"{out}/{PLAN_FILE}", read_if_there(out, PLAN_FILE)
    if content is None:
        return None
    try:
        plan = json.loads(content)
        found, version = plan["format"], plan["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: damaged, or of another program ({error!r}); choose another --out, or delete {out} if it is a dataset that was"
            " begun"
        ) from None
    if found != FORMAT:
        raise UserError(_foreign(out, [f"a {PLAN_FILE} of another program"]))
    if version != VERSION:
        raise UserError(
            f"{file}: version {version!r}, this taudl goes on with version {VERSION}; a finished dataset stays usable, but to go on"
            " choose another --out"
        )
    return plan


def _refuse_other(out: Folder, prefix: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    for name in [*old, *new]:
        if old.get(name) != new.get(name):
            raise UserError(
                f"{out}: was begun with {prefix}{name} = {old.get(name)!r}, now it is {new.get(name)!r}; a dataset is made from one"
                " set of settings, and its videos and tracks stay: choose another --out, or run with the same ones"
            )


def write_plan(out: Folder, plan: Plan, check: Callable[[], None]) -> None:
    """plan.json comes last, if `check` has no objection; what an earlier attempt left of another plan goes before it."""
    out.prepare([PLAN_DIR])
    out.take({f"{PLAN_DIR}/{unit}.parquet": plan.crops.path(unit) for unit in plan.crops})
    planned = {f"{unit['name']}.parquet" for unit in plan.content["units"]}
    out.remove(f"{PLAN_DIR}/{name}" for name in out.names(PLAN_DIR) if name not in planned)
    check()
    write_json(out, PLAN_FILE, plan.content)
