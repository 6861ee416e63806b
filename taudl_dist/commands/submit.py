"""`taudl submit`: one of jobs/ on a Ray cluster, followed from here. Nothing but Ray is needed where it is typed."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taudl_dist import ray_jobs
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

_PLACES = re.compile(r"^(?:--)?(data|out|videos|tracks|report|model)(?:=(.*))?$")
_WITH_MODEL_FOLDERS = ("evaluate", "embed")
"""Jobs whose --model is a place; elsewhere it is a name."""
_MLFLOW = re.compile(r"^mlflow +(\S.*)$", re.MULTILINE)
_EPILOG = """\
The checkout you are in is shipped, without what .gitignore, .rayignore and the runtime_env name. Paths in the job's arguments are
the cluster's: absolute, on storage that every node sees. Exit code 0 only if the job succeeded. Ctrl-C leaves the job alone; it says
how to follow it again and how to stop it.

The address is --address, else RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265. The token is RAY_AUTH_TOKEN, else the file of
RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token; RAY_AUTH_MODE=disabled sends none.

A job that was lost goes on when the same command is given again: `shard` by itself, `train` with --resume, which starts the run if
there is none yet.

Example: taudl submit train --data /storage/dataset --out /storage/runs/first --workers 2:8 --resume
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; `taudl submit --help` shows an example")


def main(argv: Sequence[str]) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    given = [args.job is not None, args.follow is not None, args.stop is not None]
    if sum(given) != 1:
        raise UsageError("expected one of JOB, --follow ID and --stop ID; `taudl submit --help` shows an example")
    if args.stop:
        return _stop(ray_jobs.connect(args.address), args.stop)
    if args.follow:
        return _follow(ray_jobs.connect(args.address), args.follow)
    return _submit(args)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="taudl submit",
        usage="taudl submit [flags] JOB [the job's own flags]\n       taudl submit --follow ID | --stop ID",
        description="Run one of jobs/ on a Ray cluster and follow what it says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("job", nargs="?", metavar="JOB", help="shard, train, evaluate, embed or reproduce")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the flags of `taudl JOB`")
    parser.add_argument("--address", default="", metavar="URL", help="the cluster's dashboard")
    parser.add_argument("--submission-id", metavar="ID", help="name of the job; an ended one's next attempt is ID.2")
    parser.add_argument("--runtime-env", type=Path, metavar="FILE", help="instead of cluster/runtime_env.yaml")
    parser.add_argument(
        "--no-wait", action="store_true", help="return once the job is there; 0 does not say that it succeeds"
    )
    parser.add_argument("--follow", metavar="ID", help="follow a job that is there")
    parser.add_argument("--stop", metavar="ID", help="stop a job; training saves its state first")
    return parser


def checkout() -> Path:
    """The checkout this is typed in, else the one this code lies in.

    Raises:
        UsageError: neither is one.
    """
    here, mine = Path.cwd(), Path(__file__).resolve().parents[2]
    for folder in (here, mine):
        if (folder / "jobs" / "submit.py").is_file() and (folder / "taudl_dist").is_dir():
            return folder
    raise UsageError(f"{here} is no checkout of this project, whose code and jobs would be shipped; go to one")


def _jobs(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "jobs").glob("*.py") if path.stem != "submit")


def _submit(args: argparse.Namespace) -> int:
    folder = checkout()
    entrypoint = _entrypoint(folder, args.job, args.arguments)
    settings = ray_jobs.read_runtime_env(args.runtime_env or folder / "cluster" / "runtime_env.yaml")
    client = ray_jobs.connect(args.address)
    job = args.submission_id
    if job:
        job, runs = ray_jobs.free_id(client, job, entrypoint)
        if runs:
            log(f"job {job} is running this command already; following it")
            return _follow(client, job)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "code.zip"
        size = ray_jobs.pack(folder, package, settings.pop("excludes", None) or [])
        log(f"shipping {folder} ({size / 1e6:.1f} MB)")
        variables = {**_code_version(folder), **(settings.get("env_vars") or {})}
        runtime_env = {**settings, "working_dir": str(package), "env_vars": variables}
        try:
            job = client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env)
        except (RuntimeError, ValueError) as error:  # a runtime_env or an id that Ray does not take
            raise UserError(f"the cluster does not take the job: {str(error).strip().splitlines()[0]}") from None
    log(f"job {job}: {entrypoint}")
    if args.no_wait:
        log(_hints(job))
        return 0
    return _follow(client, job)


def _entrypoint(folder: Path, job: str, arguments: Sequence[str]) -> str:
    """The job's command line on the cluster.

    Raises:
        UsageError: no such job, or a path that means nothing there.
    """
    if job not in _jobs(folder):
        raise UsageError(f"no job {job!r} in {folder / 'jobs'}; there are {', '.join(_jobs(folder)) or 'none'}")
    arguments = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    for word, after in zip(arguments, [*arguments[1:], ""]):
        match = _PLACES.match(word)
        place = match and (match[2] if match[2] is not None else after if word.startswith("--") else None)
        if match and match[1] == "model" and job not in _WITH_MODEL_FOLDERS:
            continue
        if match and place and not place.startswith("/") and "://" not in place:
            raise UsageError(
                f"--{match[1]} {place}: a relative path would lie in the job's copy of the code, which is deleted after it; give an"
                " absolute one, on storage that every node sees"
            )
    return shlex.join(["python", f"jobs/{job}.py", *arguments])


def _code_version(folder: Path) -> dict[str, str]:
    """The commit, for the run's record: the repository itself is not shipped."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    sha = git("rev-parse", "HEAD") if git("ls-files", "jobs/train.py") else ""
    return (
        {"TAUDL_GIT_SHA": sha, "TAUDL_GIT_DIRTY": str(int(bool(git("status", "--porcelain", "-uno"))))} if sha else {}
    )


def _follow(client: Any, job: str) -> int:
    addresses: list[str] = []

    def write(text: str) -> None:
        addresses.extend(_MLFLOW.findall(text))
        ray_jobs.write_out(text)

    try:
        info = ray_jobs.follow(client, job, write)
    except KeyboardInterrupt:
        log(f"\njob {job} goes on without you. {_hints(job)}")
        return 130
    if addresses:
        log(f"mlflow   {addresses[-1]}")
    if str(info.status) == "SUCCEEDED":
        log(f"job {job} succeeded")
        return 0
    reason = (info.message or "").strip().splitlines()
    log(f"job {job} {str(info.status).lower()}{': ' + reason[0] if reason else ''}")
    return 1


def _stop(client: Any, job: str) -> int:
    try:
        stopped = client.stop_job(job)
    except RuntimeError as error:
        if "does not exist" in str(error):
            raise UserError(f"the cluster knows no job {job}; `ray job list` names those it knows") from None
        raise
    log(
        f"job {job} is asked to stop; `taudl submit --follow {job}` shows how" if stopped else f"job {job} does not run"
    )
    return 0


def _hints(job: str) -> str:
    return f"Follow it: taudl submit --follow {job}; stop it: taudl submit --stop {job}"
