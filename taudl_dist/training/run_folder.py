"""The run folder: its files, when a run may write into it, and when it may go on from what is there.

config.yaml      the resolved configuration            run.json       dataset digest, MLflow run, code version, attempts
metrics.jsonl    a line a step                         train.log      under Ray: what rank 0 logs
checkpoints/     see checkpoint.py                     model.*        final weights, when all steps are done
lock             held by the one driver                stop, request  what driver and Ray's controller ask of the workers
workers/         what each does, see heartbeat.py

One driver at a time holds the lock. Each start of the workers is an attempt with a name of its own, listed in run.json; what an
attempt writes after a later one has begun does not count, so a worker that outlived its attempt can do no harm.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, flatten, load_yaml, resolve, to_dict
from taudl_dist.dataset.location import absolute
from taudl_dist.errors import UserError
from taudl_dist.progress import log

FORMAT = "taudl-run"
VERSION = 1
_FREE = {"data", "out", "workers", "resume", "launcher", "stop_at"}
_FREE_GROUPS = ("checkpoint.", "evaluation.", "parallel.", "storage.", "tracking.")
_LOCK = "lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Overtaken(UserError):
    """A later attempt of the run has begun; what this one would write does not count."""


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

    @property
    def request(self) -> Path:
        """Ray's controller asks an attempt to save its state: the attempt's name, and SIGUSR1 (go on) or SIGTERM (then end)."""
        return self.path / "request"

    @property
    def workers(self) -> Path:
        """What every worker does; see heartbeat.py."""
        return self.path / "workers"

    @property
    def resume_command(self) -> str:
        """What a user types to go on with the run."""
        return f"taudl train --out {shlex.quote(str(self.path))} --resume"

    def info(self) -> dict[str, Any]:
        """The contents of run.json.

        Raises:
            UserError: it is not what a run wrote.
        """
        path = self.path / "run.json"
        try:
            info = json.loads(path.read_text())
            found = info["format"], info["version"], info["dataset"]["digest"], info["mlflow"], info["outcome"]
            [(entry["attempt"], entry["from_step"]) for entry in info["attempts"]]
            info["outcome"] and info["outcome"]["step"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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

    def attempt(self) -> str | None:
        """The name of the newest attempt, or None before the first."""
        attempts = self.info()["attempts"]
        return attempts[-1]["attempt"] if attempts else None

    def add_attempt(self, attempt: str, *, after: str | None, **facts: Any) -> None:
        """Appends to the history of starts in run.json.

        Args:
            after: the newest attempt when this one began.

        Raises:
            Overtaken: another one has begun since.
        """
        self.check_newest(after)
        self.update(attempts=[*self.info()["attempts"], {"started": _now(), "attempt": attempt, **facts}])

    def check_newest(self, attempt: str | None) -> None:
        """Stops a worker that outlived its attempt before it writes.

        Raises:
            Overtaken: a later attempt has begun.
        """
        newest = self.attempt()
        if newest != attempt:
            raise Overtaken(
                f"{self.path}: attempt {newest} of this run has begun after {attempt}, which ends here; nothing is lost"
            )

    def trusts(self, attempt: str, step: int) -> bool:
        """Whether a checkpoint counts: no later attempt has begun at an earlier step, which would have been written without it."""
        attempts = self.info()["attempts"]
        names = [entry["attempt"] for entry in attempts]
        later = attempts[names.index(attempt) + 1 :] if attempt in names else []
        return all(step <= entry["from_step"] for entry in later)


def check_folder(config: Config) -> None:
    """Refuses a place for a run without touching it.

    --resume with --data starts a run where there is none yet, so that one command can be given again until it has succeeded.

    Raises:
        UserError: the folder is not empty and --resume is not given, or there is no run to go on with.
    """
    path = Path(config.out)
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {config.out}: found a file, expected a folder to write the run into")
    entries = sorted(entry.name for entry in path.iterdir() if entry.name != _LOCK) if path.is_dir() else []
    if entries and not config.resume:
        hint = "add --resume to go on from its newest checkpoint, or " if "run.json" in entries else ""
        raise UserError(
            f"--out {config.out}: the folder is not empty (it holds {entries[0]}); {hint}choose another folder"
        )
    if config.resume and "run.json" not in entries and not (config.data and all(map(_of_a_start, entries))):
        hint = "give --data to start one there, or check --out" if not entries else "check --out, or drop --resume"
        raise UserError(f"--resume: {config.out} holds no run to go on with (no run.json); {hint}")


def _of_a_start(name: str) -> bool:
    """Whether a run that was killed before it wrote run.json may have left this file."""
    return name.split(".tmp-", maxsplit=1)[0] in ("config.yaml", "run.json")


@contextlib.contextmanager
def locked(path: Path, *, command: str = "train") -> Iterator[None]:
    """Keeps other drivers out of a run folder, or the folder of another command; it is made if need be.

    The kernel drops the lock when its holder dies, however it dies. It works across machines on NFS 4 and on Lustre mounted with
    `flock`; where the file system keeps no locks, a line says so.

    Raises:
        UserError: another driver holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / _LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"--out {path}: another `taudl {command}` is writing into it ({file.read().strip() or 'it has just begun'});"
                " wait for it or stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log(
                f"warning: the file system of {path} keeps no locks ({error.strerror}); start no second driver on this run"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {_now()}\n")
        file.flush()
        yield


def open_run(config: Config, *, dataset_digest: str, workers: tuple[int, int]) -> RunFolder:
    """The run folder, created or checked for going on; config.yaml and run.json are written.

    Raises:
        UserError: the folder is not empty and --resume is not given, or the run in it cannot go on this way.
    """
    check_folder(config)
    run = RunFolder(path=Path(config.out).resolve())
    info = _identity(config, dataset_digest, workers)
    if (run.path / "run.json").exists():
        info = _continued(run, config, info)
    elif config.resume:
        log(f"--resume: {config.out} holds no run yet; starting one")
    run.path.mkdir(parents=True, exist_ok=True)
    run.stop.unlink(missing_ok=True)
    run.request.unlink(missing_ok=True)
    for beat in run.workers.iterdir() if run.workers.is_dir() else ():
        beat.unlink(missing_ok=True)  # of those that are gone; `taudl status` would take them for the news
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
        "dataset": {"path": absolute(config.data), "digest": dataset_digest},
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
    checkpoint = newest(run.checkpoints, trusts=run.trusts)
    if checkpoint is None:
        same = not changed and digests[0] == digests[1]
        return {**info, "mlflow": old["mlflow"] if same else None, "attempts": old["attempts"]}
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def code_version() -> dict[str, Any]:
    """Version of this package, and the git commit it runs from, which `taudl submit` and the image name where there is no repository."""
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
    dirty = bool(git("status", "--porcelain", "-uno")) if sha else None
    if not sha and os.environ.get("TAUDL_GIT_SHA"):
        sha, dirty = os.environ["TAUDL_GIT_SHA"], os.environ.get("TAUDL_GIT_DIRTY") == "1"
    return {"version": __version__, "git_sha": sha, "git_dirty": dirty}


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
