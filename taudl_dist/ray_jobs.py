"""Jobs on a Ray cluster that is somewhere else: who may send one, what is sent, and what it says. Needs Ray and nothing more.

The token that the cluster asks for goes into the header of requests and nowhere else: not into a job's environment, which whoever
may look at the dashboard can read, nor into a message.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import log

MAX_PACKAGE_BYTES = 100 * 10**6
"""A job ships code; what is larger was not meant to be shipped."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_SECRET = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_SILENCE_S = 60.0
"""A connection that has been silent so long may be dead; the log is asked for anew."""
_PATIENCE_S = 300.0
"""As long as the cluster may be out of reach before following ends."""


def connect(address: str = "") -> Any:
    """A client of the cluster's job server.

    Args:
        address: http(s) address of the dashboard; RAY_API_SERVER_ADDRESS, then the loopback's port 8265, if empty.

    Raises:
        UserError: no token, a wrong one, or nobody there.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS", "") or DEFAULT_ADDRESS
    scheme, host = _parts(address)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets it win over an argument
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mode = _check_token(scheme, host)
    import logging

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own waits for ever for an answer, as behind a tunnel whose other end is gone."""

        def _do_request(self, *words: Any, **more: Any) -> Any:
            return super()._do_request(*words, **{"timeout": _SILENCE_S, **more})

    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):  # each has set its own
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return Client(address)
    except AuthenticationError:
        if mode == "disabled":
            raise UserError(f"{address} asks for a token, and RAY_AUTH_MODE=disabled sends none; unset it") from None
        raise UserError(
            f"{address} refuses this token; RAY_AUTH_TOKEN, or the file of RAY_AUTH_TOKEN_PATH (~/.ray/auth_token), must hold the"
            " one the cluster was started with"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # the last two: somebody else's answer
        raise UserError(
            f"no job server at {address} ({(str(error) or type(error).__name__).splitlines()[0]}); start the cluster, or open the way to it"
            " (cluster/README.md), and say where with --address or RAY_API_SERVER_ADDRESS"
        ) from None


def _parts(address: str) -> tuple[str, str]:
    """Scheme and host of an address that may be shown to everybody."""
    try:
        place = urlsplit(address)
        if place.scheme in ("http", "https") and place.hostname and not place.username:
            return place.scheme, place.hostname
    except ValueError:  # brackets without an address
        pass
    shown = re.sub(r"//[^/@]*@", "//...@", address)
    raise UsageError(f"address {shown!r}: expected http://HOST:8265 or https://HOST, with nobody's name in it")


def _check_token(scheme: str, host: str) -> str:
    """The mode of authentication, `token` unless RAY_AUTH_MODE says otherwise; Ray reads the token by itself."""
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token").lower()
    if mode == "disabled":
        log("warning: RAY_AUTH_MODE=disabled; a cluster that asks for no token runs anybody's code")
        return mode
    if mode != "token":
        raise UsageError(f"RAY_AUTH_MODE={mode}: expected token or disabled")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not path.is_file():
        raise UserError(
            f"no token: RAY_AUTH_TOKEN is not set and there is no file {path}; copy the cluster's token there (cluster/README.md"
            " says from where), or set RAY_AUTH_MODE=disabled for a cluster that asks for none"
        )
    if scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
        log(f"warning: the token goes to {host} unencrypted; use https, or a tunnel that ends on 127.0.0.1")
    return mode


def read_runtime_env(path: Path) -> dict[str, Any]:
    """A runtime_env file of Ray's.

    Raises:
        UserError: it cannot be read, names another working_dir, or sets a variable whose name says that it is a secret.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--runtime-env {path}: not readable ({error})") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("env_vars") or {}, dict):
        raise UserError(f"--runtime-env {path}: expected a mapping such as cluster/runtime_env.yaml")
    variables, excludes = settings.get("env_vars") or {}, settings.get("excludes") or []
    if not isinstance(excludes, list) or not all(
        isinstance(text, str) for text in [*excludes, *variables, *variables.values()]
    ):
        raise UserError(
            f'--runtime-env {path}: expected excludes as a list of text, and env_vars as text, numbers too: A: "1"'
        )
    if "working_dir" in settings:
        raise UserError(
            f"--runtime-env {path}: it names a working_dir, but the checkout is what is shipped; drop the line"
        )
    secrets = [name for name in variables if _SECRET.search(name)]
    if secrets:
        raise UserError(
            f"--runtime-env {path}: {secrets[0]} in env_vars would be shown to whoever sees the dashboard; give secrets to the"
            " nodes where the cluster is started (cluster/README.md)"
        )
    return settings


def pack(folder: Path, package: Path, excludes: Sequence[str]) -> int:
    """Zips a folder without what .gitignore, .rayignore and `excludes` name, and returns the size in bytes.

    Raises:
        UserError: more than MAX_PACKAGE_BYTES.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    everything = [*get_runtime_env_default_excludes(), *excludes]
    create_package(str(folder), package, include_gitignore=True, excludes=everything, logger=_quiet())
    size = package.stat().st_size
    if size > MAX_PACKAGE_BYTES:
        raise UserError(
            f"{folder} would be shipped with {size / 1e6:.0f} MB, at most {MAX_PACKAGE_BYTES / 1e6:.0f} are; the largest files are"
            f" {', '.join(_largest(package))}: name what a job does not need in .rayignore"
        )
    return size


def _quiet() -> Any:
    import logging

    logger = logging.getLogger("taudl.pack")
    logger.setLevel(logging.ERROR)
    return logger


def _largest(package: Path, number: int = 3) -> list[str]:
    import zipfile

    with zipfile.ZipFile(package) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)[:number]
    return [f"{entry.filename} ({entry.compress_size / 1e6:.1f} MB)" for entry in entries]


def free_id(client: Any, wanted: str, entrypoint: str) -> tuple[str, bool]:
    """The id a job may have, and whether it runs already.

    A job that has ended keeps its id with its log; the next attempt becomes ID.2, then ID.3. The same command, while it runs, is
    not started twice.

    Raises:
        UsageError: another command runs under the id.
    """
    jobs = {job.submission_id: job for job in client.list_jobs() if job.submission_id}
    attempts = list(_attempts(wanted, jobs))
    for name in attempts:
        job = jobs[name]
        if str(job.status) not in ENDED:
            if job.entrypoint != entrypoint:
                raise UsageError(
                    f"--submission-id {wanted}: {name} is running `{job.entrypoint}`; choose another id, or stop it"
                )
            return name, True
    return (f"{wanted}.{len(attempts) + 1}" if attempts else wanted), False


def _attempts(wanted: str, jobs: Mapping[str, Any]) -> Iterator[str]:
    name, number = wanted, 1
    while name in jobs:
        yield name
        number += 1
        name = f"{wanted}.{number}"


def follow(client: Any, job: str, write: Callable[[str], None]) -> Any:
    """Passes on what a job says until it has ended, over lost connections, and returns what the cluster knows about it.

    Raises:
        UserError: the cluster is out of reach for minutes, or no longer knows the job.
    """
    shown = 0
    reached = time.monotonic()
    lost = False

    def show(text: str, end: int) -> None:
        nonlocal shown
        new = end - shown
        if new > 0:
            shown = end
            try:
                write(text[-new:])
            except OSError as error:  # nobody reads any more, which is no trouble of the cluster's
                raise _Unheard from error

    while True:
        try:
            info = client.get_job_info(job)
            reached, lost = time.monotonic(), False
            if info.driver_info or str(info.status) != "PENDING":
                asyncio.run(_tail(client, job, show))
                info = client.get_job_info(job)
            if str(info.status) in ENDED:
                return info
        except _Unheard as unheard:
            raise unheard.__cause__ or unheard from None
        except Exception as error:  # of requests, aiohttp and Ray, which have no common ancestor
            if "does not exist" in str(error):
                raise UserError(f"the cluster knows no job {job}; its head may have been started anew since") from None
            if time.monotonic() - reached > _PATIENCE_S:
                raise UserError(
                    f"the cluster is out of reach since {_PATIENCE_S:.0f} s ({type(error).__name__}); job {job} may well go on"
                ) from None
            if not lost:
                log(
                    f"warning: the cluster is out of reach ({type(error).__name__}); trying again for {_PATIENCE_S:.0f} s"
                )
            lost = True
        time.sleep(1)


class _Unheard(Exception):
    """What a job says could not be written."""


async def _tail(client: Any, job: str, show: Callable[[str, int], None]) -> None:
    """Shows a job's log from its beginning until it ends or falls silent; `show` gets each piece and where in the log it ends."""
    end = 0
    pieces: AsyncIterator[str] = client.tail_job_logs(job)
    while True:
        try:
            text = await asyncio.wait_for(anext(pieces), _SILENCE_S)
        except (StopAsyncIteration, TimeoutError):
            return
        end += len(text)
        show(text, end)


def write_out(text: str) -> None:
    """What a job says goes to stdout, as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()
