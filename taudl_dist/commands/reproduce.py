"""`taudl reproduce`: a table of the paper, its rows trained and evaluated where they are missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from taudl_dist.reproduce import Experiment, Outcome, Result


@dataclass(frozen=True, kw_only=True)
class ReproduceArgs:
    """Runs what our system can run of a table of the paper, and puts the numbers beside the published ones.

    Every setting of `taudl train` can follow (--steps, --model, --workers, --config, optim.lr=1e-3, ...) and holds for all rows, except
    those that the rows decide. Runs that are complete are not repeated, also not those of another table in the same --out;
    interrupted ones are resumed. A row that fails is listed, the others go on, and the exit code is 1. Files: <table>.md, .html
    and .json in --out, which hold what the last command asked for; and MLflow has a parent run for the table.

    Example: taudl reproduce table5 --data market --out paper --seeds 3 --weights resnet50.safetensors --workers 4

    jcc, pctd: the recipes of `taudl train`. Rows with CCTA come twice: `paper` is Eq. 1-4 as printed, `best` the default recipe. table6
    takes the duplications of MARS that `taudl import mars --duplication` made, or cuts tracklets of any other dataset in two.
    `parameters` varies K, sigma and lambda, of which the paper prints no table.
    """

    table: Annotated[Literal["table2", "table3", "table4", "table5", "table6", "parameters"], Positional]
    """Which table."""
    data: tuple[str, ...]
    """Datasets with query and gallery; the splits of one benchmark count as one dataset, as their mean."""
    out: str
    """Folder for runs, derived datasets and the table's files."""
    seeds: str = "1"
    """How many seeds (3 is 0, 1 and 2), or which ones, with commas (`7,` is one)."""
    rows: str = ""
    """Only these rows: names with commas, * stands for anything, such as 'pctd,best*'; empty: all."""
    test_frames: int = 0
    """Evenly spaced frames pooled per tracklet at test; 0 takes all."""
    list: bool = False
    """List the runs and which of them are done, and do nothing."""
    json: bool = False
    """Print the result as one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Runs, writes the files after each run, prints the table."""
    import inspect

    import tyro

    from taudl_dist.commands.train import given_settings, split_words

    flags, overrides = split_words(argv)
    args, rest = tyro.cli(
        ReproduceArgs,
        args=flags,
        prog="taudl reproduce",
        return_unknown_args=True,
        description=inspect.getdoc(ReproduceArgs),
    )
    settings = given_settings([*rest, *overrides], command="reproduce")
    experiment = _experiment(args, settings)
    if args.list:
        print(_listing(experiment))
        return 0
    from taudl_dist.training.run_folder import locked

    with locked(experiment.out):
        result, exit_code = _run(experiment)
    from taudl_dist.reproduce.text import as_json, as_text

    print(json.dumps(as_json(result)) if args.json else as_text(result))
    return exit_code


def _experiment(args: ReproduceArgs, settings: dict[str, Any]) -> Experiment:
    """Everything that can be wrong is refused here, before anything is spent."""
    from taudl_dist.config import unflatten
    from taudl_dist.dataset import open_dataset
    from taudl_dist.errors import UsageError
    from taudl_dist.reproduce import TABLES, Experiment
    from taudl_dist.training.world import launched_size

    if launched_size() is not None:
        raise UsageError(
            "taudl reproduce starts its runs one after the other and cannot be one of torchrun's processes; start it plainly"
            " and give --workers N"
        )
    table = TABLES[args.table]
    decided = sorted(settings.keys() & (table.decided | {"data", "out", "resume", "stop_at"}))
    if decided:
        raise UsageError(
            f"{', '.join(decided)}: decided by the rows of {table.name} and by the flags of `taudl reproduce`, and cannot be given"
            " as settings of training; leave them out (--seeds and --rows choose)"
        )
    if args.test_frames < 0:
        raise UsageError(f"--test-frames {args.test_frames}: expected 0 (all) or more")
    out = Path(args.out).resolve()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: found a file, expected a folder")
    return Experiment(
        table=table,
        rows=table.select([name for name in args.rows.split(",") if name]),
        datasets=tuple(open_dataset(data) for data in args.data),
        seeds=parse_seeds(args.seeds),
        out=out,
        settings=unflatten(settings),
        frames=args.test_frames,
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that --seeds names: `3` is 0, 1, 2; `7,` and `0,4` are those.

    Raises:
        UsageError: anything else, or a seed twice.
    """
    from taudl_dist.errors import UsageError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise UsageError(f"--seeds {text}: expected how many (3), or different seeds with commas (0,1,2)")
    if "," in text:
        return tuple(map(int, words))
    if int(text) < 1:
        raise UsageError(f"--seeds {text}: expected at least one seed; `{text},` is the seed {text} alone")
    return tuple(range(int(text)))


def _run(experiment: Experiment) -> tuple[Result, int]:
    """The result, complete or as far as it came, and the exit code."""
    from taudl_dist.reproduce import run_experiment, summarise
    from taudl_dist.reproduce.files import write_files
    from taudl_dist.reproduce.remarks import remarks
    from taudl_dist.reproduce.tracked import Parent
    from taudl_dist.training import Interrupted

    parent = Parent(experiment)
    outcomes: list[Outcome] = []
    result = summarise(experiment, outcomes, remarks=remarks(experiment))
    files: list[Path] = []
    exit_code, status = 1, "KILLED"
    try:
        for outcome in run_experiment(experiment):
            outcomes.append(outcome)
            parent.adopt(outcome)
            result = summarise(experiment, outcomes, remarks=remarks(experiment, outcomes))
            files = write_files(experiment.out, result)
        exit_code, status = (0, "FINISHED") if result.is_complete else (1, "FAILED")
    except Interrupted as stopped:
        print(f"taudl reproduce: {_stopped(outcomes, experiment)} ({stopped})", file=sys.stderr)
        exit_code = stopped.exit_code
    finally:
        parent.close(result, files, status=status)
    return result, exit_code


def _stopped(outcomes: Sequence[Outcome], experiment: Experiment) -> str:
    return f"stopped after {len(outcomes)} of {len(experiment.jobs)} runs; the same command goes on"


def _listing(experiment: Experiment) -> str:
    from taudl_dist.reproduce.experiment import state

    lines = [f"{job.row.name} {job.dataset.name} seed {job.seed}: {state(experiment, job)}" for job in experiment.jobs]
    return "\n".join(lines)
