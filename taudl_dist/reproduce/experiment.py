"""Runs the rows of a table: trains what is missing, goes on with what was interrupted, evaluates, and never does anything twice.

A run's folder is named by its recipe, its seed, and a hash of the dataset's digest and all settings that change its result; so runs
are shared by the tables that have them in common, and found again wherever the dataset lies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, merge, resolve
from taudl_dist.dataset import Dataset, open_dataset
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.protocols import BENCHMARKS, Protocol, benchmark_of
from taudl_dist.progress import log
from taudl_dist.reproduce.tables import Row, Table

_DUPLICATION = "duplication"
"""How `taudl import mars` says in dataset.json what it drew."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, and what it is run with.

    settings: what the user gave of the settings of `taudl train`, nested. frames: evenly spaced ones pooled per tracklet at test; 0: all.

    Raises:
        UsageError: datasets that cannot stand in one table, or settings that the rows decide.
    """

    table: Table
    rows: tuple[Row, ...]
    datasets: tuple[Dataset, ...]
    seeds: tuple[int, ...]
    out: Path
    settings: dict[str, Any] = field(default_factory=dict)
    frames: int = 0

    def __post_init__(self) -> None:
        if not self.datasets or not self.seeds:
            raise UsageError(
                f"found {len(self.datasets)} datasets and {len(self.seeds)} seeds, expected at least one each"
            )
        for dataset in self.datasets:
            _check_probes(dataset)
        for name, members in self.groups.items():
            _check_group(name, members, has_duplication=self.has_duplication)
        for row in self.rows:
            self.config(row, seed=self.seeds[0])

    @property
    def groups(self) -> dict[str, tuple[Dataset, ...]]:
        """Datasets by benchmark, whose splits count as one; other data by the name of their folder."""
        found: dict[str, tuple[Dataset, ...]] = {}
        for dataset in self.datasets:
            name = self.group_of(dataset)
            found[name] = (*found.get(name, ()), dataset)
        return found

    def group_of(self, dataset: Dataset) -> str:
        """The benchmark a dataset is, as its protocol is called, or else its own name."""
        protocol = benchmark_of(dataset.info["settings"])
        if protocol != "standard":
            return protocol
        namesakes = [other for other in self.datasets if other.name == dataset.name]
        return dataset.name if len(namesakes) == 1 else f"{dataset.name} {dataset.digest[:6]}"

    @property
    def has_duplication(self) -> bool:
        """Whether rows differ in the duplication of identities."""
        return any(row.duplication is not None for row in self.rows)

    @property
    def jobs(self) -> list[Job]:
        """All runs, one seed after the other, so that a table has all its rows early."""
        return [
            Job(row=row, dataset=dataset, seed=seed)
            for seed in self.seeds
            for dataset in self.datasets
            for row in self.rows
            if _takes_part(row, dataset, self.groups[self.group_of(dataset)])
        ]

    def config(self, row: Row, *, seed: int) -> Config:
        """The settings of a run; data and place are not filled in."""
        return resolve({**merge(self.settings, row.settings), "recipe": row.recipe, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row, for one dataset and one seed."""

    row: Row
    dataset: Dataset
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job: the numbers of `taudl evaluate`, or why there are none."""

    job: Job
    run: str
    evaluation: dict[str, Any] | None = None
    error: str = ""
    mlflow: dict[str, Any] | None = None
    code: str = ""
    """Version of the code that trained, for a run may be older than the code that reads it."""


def run_experiment(experiment: Experiment) -> Iterator[Outcome]:
    """Each job's outcome as soon as it is known; a job that fails is logged, and the next one begins.

    Raises:
        Interrupted: by a signal, with a checkpoint from which the same call goes on.
    """
    from taudl_dist.training import Interrupted

    jobs = experiment.jobs
    for number, job in enumerate(jobs, start=1):
        title = f"[{number}/{len(jobs)}] {experiment.table.name} {job.row.name} on {job.dataset.name}, seed {job.seed}"
        folder = ""
        try:
            data = training_data(experiment, job)
            config = experiment.config(job.row, seed=job.seed)
            run = experiment.out / "runs" / run_name(data.digest, config)
            folder = str(run)
            _train(config, data, run, title=title)
            evaluation = _evaluate(job.dataset, run, frames=experiment.frames, title=title)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # a night's other rows are worth more than a clean end
            if not isinstance(error, UserError | OSError):
                log(traceback.format_exc())
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            log(f"{title}: failed: {reason}")
            yield Outcome(job=job, run=folder, error=reason)
            continue
        yield Outcome(job=job, run=folder, evaluation=evaluation, **_origin(run))


def tracking_place(experiment: Experiment) -> Config:
    """A configuration that says where MLflow keeps the runs."""
    config = experiment.config(experiment.rows[0], seed=experiment.seeds[0])
    return dataclasses.replace(config, out=str(experiment.out / "runs" / "run"))


def run_name(digest: str, config: Config) -> str:
    """Folder of a run: equal data and settings give equal names."""
    from taudl_dist.training.run_folder import config_digest

    key = hashlib.sha256(f"{digest} {config_digest(config)}".encode()).hexdigest()[:12]
    return f"{config.recipe}-seed{config.seed}-{key}"


def training_data(experiment: Experiment, job: Job) -> Dataset:
    """What a job trains on: the dataset itself, or a copy with duplicated identities, made when it is first needed."""
    folder = _duplicate_folder(experiment, job)
    if folder is None:
        return job.dataset
    if not folder.exists():
        from data_tools.duplicate import duplicate

        folder.parent.mkdir(parents=True, exist_ok=True)
        log(f"{folder}: a copy of {job.dataset.name} in which identities have two labels")
        duplicate(job.dataset, folder, share=job.row.duplication or 0.0)
    return open_dataset(folder)


def _duplicate_folder(experiment: Experiment, job: Job) -> Path | None:
    """Where the copy lies; None: the job trains on the dataset itself."""
    share = job.row.duplication
    if not share or job.dataset.info["settings"].get(_DUPLICATION):
        return None
    return experiment.out / "datasets" / f"{job.dataset.digest[:12]}-duplication-{100 * share:g}"


def state(experiment: Experiment, job: Job) -> str:
    """What is there of a job: done, trained, interrupted, or missing."""
    folder = _duplicate_folder(experiment, job)
    if folder and not folder.exists():
        return "missing"
    config = experiment.config(job.row, seed=job.seed)
    run = experiment.out / "runs" / run_name(training_data(experiment, job).digest, config)
    if not (run / "run.json").exists():
        return "missing"
    if not _is_trained(run, config):
        return f"interrupted, {run}"
    is_evaluated = _evaluation_file(job.dataset, run, protocol_of(job.dataset, frames=experiment.frames)).exists()
    return f"{'done' if is_evaluated else 'trained'}, {run}"


def protocol_of(dataset: Dataset, *, frames: int) -> Protocol:
    """The protocol of its benchmark."""
    return dataclasses.replace(BENCHMARKS[benchmark_of(dataset.info["settings"])].protocol, frames=frames)


def is_imported_duplication(members: tuple[Dataset, ...]) -> bool:
    """Whether the datasets of a group are the duplications themselves, as `taudl import mars --duplication` makes them."""
    return len({dataset.info["settings"].get(_DUPLICATION) for dataset in members}) > 1


def _takes_part(row: Row, dataset: Dataset, members: tuple[Dataset, ...]) -> bool:
    if row.duplication is None or not is_imported_duplication(members):
        return True
    return dataset.info["settings"].get(_DUPLICATION) == row.duplication


def _check_probes(dataset: Dataset) -> None:
    counts = {split: dataset.info["splits"][split]["tracklets"] for split in ("query", "gallery")}
    if not all(counts.values()):
        raise UsageError(
            f"--data {dataset.location}: {counts['query']} query and {counts['gallery']} gallery tracklets, so no number can be"
            " measured on it; expected a benchmark (`taudl import`) or a corpus with ground truth (`taudl shard --truth`)"
        )


def _check_group(name: str, members: tuple[Dataset, ...], *, has_duplication: bool) -> None:
    """Datasets of one benchmark are its splits, or its duplications in a table about them."""
    told_by = ("split", _DUPLICATION) if has_duplication else ("split",)
    seen: dict[tuple[Any, ...], str] = {}
    for dataset in members:
        which = tuple(dataset.info["settings"].get(setting) for setting in told_by)
        if which in seen:
            raise UsageError(
                f"--data {seen[which]} {dataset.location}: both are {name} with the same {' and '.join(told_by)}, and would count as"
                " one; give one of them, or each an --out of its own"
            )
        seen[which] = dataset.location
    imported = {dataset.info["settings"].get(_DUPLICATION, 0.0) for dataset in members}
    if has_duplication and len(imported) == 1 and imported != {0.0}:
        raise UsageError(
            f"--data {members[0].location}: imported with a duplication of {imported.pop()}; give the one without too, from"
            " which the others are told"
        )


def _train(config: Config, data: Dataset, run: Path, *, title: str) -> None:
    """Trains, or goes on, unless all steps are done."""
    from taudl_dist.training import train

    if _is_trained(run, config):
        return
    is_begun = (run / "run.json").exists()
    if not is_begun:
        shutil.rmtree(run, ignore_errors=True)  # killed before it was a run
    log(f"{title}: {'going on with' if is_begun else 'training into'} {run}")
    train(dataclasses.replace(config, data=data.location, out=str(run), resume=is_begun))


def _is_trained(run: Path, config: Config) -> bool:
    """Whether all steps are done and the weights are there."""
    from taudl_dist.training.run_folder import RunFolder

    if not (run / "run.json").exists():
        return False
    outcome = RunFolder(path=run).info()["outcome"]
    return bool(outcome) and outcome["step"] >= config.steps and (run / "model.safetensors").exists()


def _evaluate(dataset: Dataset, run: Path, *, frames: int, title: str) -> dict[str, Any]:
    """Evaluates, unless that was done with these weights, this dataset and this protocol."""
    from taudl_dist import tracking
    from taudl_dist.evaluation.evaluate import evaluate
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.training.run_folder import write_json

    protocol = protocol_of(dataset, frames=frames)
    file = _evaluation_file(dataset, run, protocol)
    if file.exists():
        return json.loads(file.read_text())
    log(f"{title}: evaluating")
    facts = evaluate(dataset.location, run, protocol=protocol, device=best_device())
    write_json(file, facts)
    tracking.log_evaluation(run, facts, dataset_digest=dataset.digest)
    return facts


def _evaluation_file(dataset: Dataset, run: Path, protocol: Protocol) -> Path:
    from taudl_dist.evaluation.evaluate import model_digest

    asked = {"dataset": dataset.digest, "model": model_digest(run), **dataclasses.asdict(protocol)}
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return run / f"evaluation-{key}.json"


def _origin(run: Path) -> dict[str, Any]:
    from taudl_dist.training.run_folder import RunFolder

    info = RunFolder(path=run).info()
    code = info["code"]
    version = (
        f"{code['git_sha'][:10]}{' (changed)' if code['git_dirty'] else ''}" if code["git_sha"] else code["version"]
    )
    return {"mlflow": info["mlflow"], "code": version}
