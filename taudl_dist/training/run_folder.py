"""The run folder: its files, when a run may write into it, and when it may go on from what is there.

config.yaml      the resolved configuration            run.json       dataset digest, MLflow run, code version, attempts
metrics.jsonl    a line a step                         train.log      the log lines of rank 0
checkpoints/     see checkpoint.py                     model.*        final weights, when all steps are done
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, flatten, load_yaml, resolve, to_dict
from taudl_dist.errors import UserError
from taudl_dist.progress import log

FORMAT = "taudl-run"
VERSION = 1
_FREE = {"data", "out", "workers", "resume", "launcher", "stop_at"}
_FREE_GROUPS = ("checkpoint.", "tracking.")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run writes."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def stop(self) -> Path:
        """Under Ray the driver asks the workers to stop by writing a signal number here."""
        return self.path / "stop"

    def info(self) -> dict[str, Any]:
        """The contents of run.json.

        Raises:
            UserError: it is not what a run wrote.
        """
        path = self.path / "run.json"
        try:
            info = json.loads(path.read_text())
            found = info["format"], info["version"], info["dataset"]["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not readable as written ({error!r}); start a new run with another --out"
            ) from None
        if found[:2] != (FORMAT, VERSION):
            raise UserError(
                f"{path}: found format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {VERSION}"
            )
        return info

    def update(self, **changes: Any) -> None:
        """Replaces entries of run.json."""
        write_json(self.path / "run.json", {**self.info(), **changes})

    def add_attempt(self, **facts: Any) -> None:
        """Appends to the history of starts in run.json."""
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.update(attempts=[*self.info()["attempts"], {"started": started, **facts}])


def open_run(config: Config, *, dataset_digest: str, workers: tuple[int, int]) -> RunFolder:
    """The run folder, created or checked for going on; config.yaml and run.json are written.

    Raises:
        UserError: the folder is not empty and --resume is not given, or the run in it cannot go on this way.
    """
    run = RunFolder(path=Path(config.out).resolve())
    entries = sorted(path.name for path in run.path.iterdir()) if run.path.is_dir() else []
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"--out {config.out}: found a file, expected a folder to write the run into")
    if entries and not config.resume:
        hint = "add --resume to go on from its newest checkpoint, or " if "run.json" in entries else ""
        raise UserError(
            f"--out {config.out}: the folder is not empty (it holds {entries[0]}); {hint}choose another folder"
        )
    if config.resume and "run.json" not in entries:
        raise UserError(
            f"--resume: {config.out} holds no run to go on with (no run.json); check --out, or drop --resume"
        )
    info = _identity(config, dataset_digest, workers)
    if config.resume:
        info = _continued(run, config, info)
    run.path.mkdir(parents=True, exist_ok=True)
    run.stop.unlink(missing_ok=True)
    write_config(run, config)
    write_json(run.path / "run.json", info)  # last: it says that there is a run to go on with
    return run


def write_config(run: RunFolder, config: Config) -> None:
    """Saves the resolved configuration beside the run."""
    write_text(run.path / "config.yaml", config_yaml(config))


def config_yaml(config: Config) -> str:
    """The configuration as YAML that --config reads."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)


def decisive(config: Config) -> dict[str, Any]:
    """The flat settings that change the result of a run; places, workers, tracking and checkpoints do not."""
    flat = flatten(to_dict(config))
    return {key: value for key, value in flat.items() if key not in _FREE and not key.startswith(_FREE_GROUPS)}


def config_digest(config: Config) -> str:
    """Tells runs of different results apart; equal settings give equal digests."""
    return hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()[:16]


def _identity(config: Config, dataset_digest: str, workers: tuple[int, int]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": {"path": str(Path(config.data).resolve()), "digest": dataset_digest},
        "config_digest": config_digest(config),
        "code": code_version(),
        "workers": ":".join(map(str, sorted(set(workers)))),
        "mlflow": None,
        "attempts": [],
        "outcome": None,
    }


def _continued(run: RunFolder, config: Config, info: dict[str, Any]) -> dict[str, Any]:
    """run.json of a run that goes on; a run without a complete checkpoint may change its mind about everything."""
    from taudl_dist.training.checkpoint import newest, step_of

    old = run.info()
    before, now = decisive(_saved_config(run)), decisive(config)
    changed = [key for key in now if before.get(key) != now[key]]
    digests = old["dataset"]["digest"], info["dataset"]["digest"]
    checkpoint = newest(run.checkpoints)
    if checkpoint is None:
        same = not changed and digests[0] == digests[1]
        return {**info, "mlflow": old["mlflow"], "attempts": old["attempts"]} if same else info
    if digests[0] != digests[1]:
        raise UserError(
            f"--resume: {run.path} was trained on the dataset with digest {digests[0]}, {config.data} has digest {digests[1]};"
            " give the old dataset, or start a new run with another --out"
        )
    refused = [f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in changed if key != "steps"]
    if refused:
        raise UserError(
            f"--resume with other settings would be another run: {'; '.join(refused)}; drop them, or start a new run with another --out"
        )
    if step_of(checkpoint) > config.steps:
        raise UserError(
            f"--resume: {run.path} has {step_of(checkpoint)} steps behind it, found --steps {config.steps}; give more"
        )
    if changed:
        log(
            f"resuming with steps {before['steps']} -> {config.steps}: the learning rate's schedule spans the new number of steps"
        )
    mlflow = old["mlflow"]
    if mlflow and changed:  # the model logged at the end of the old steps is not the one this run will end with
        mlflow = {**mlflow, "model_id": None}
    return {**info, "mlflow": mlflow, "attempts": old["attempts"]}


def _saved_config(run: RunFolder) -> Config:
    try:
        return resolve(load_yaml(run.path / "config.yaml"))
    except UserError as error:
        raise UserError(
            f"--resume: {run.path / 'config.yaml'} is not what the run wrote ({error}); start a new run with another --out"
        ) from None


def code_version() -> dict[str, Any]:
    """Version of this package, and the git commit it runs from if it does."""
    from taudl_dist import __version__

    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git(
        "ls-files", "--error-unmatch", Path(__file__).name
    )  # an installed copy inside someone else's repository is not ours
    sha = git("rev-parse", "HEAD") if tracked else None
    return {
        "version": __version__,
        "git_sha": sha,
        "git_dirty": bool(git("status", "--porcelain", "-uno")) if sha else None,
    }


def write_text(path: Path, text: str) -> None:
    """Writes a small file so that it appears complete or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file so that it appears complete or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
