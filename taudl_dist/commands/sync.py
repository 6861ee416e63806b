"""`taudl sync`: brings to MLflow what it has not got of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from taudl_dist.commands import parse
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SyncArgs:
    """Bring to MLflow what it has not got of a run: one that was trained while its MLflow was out of reach, or killed.

    Steps, evaluations and models that are there already are left alone, so it can be given again at any time. A run that is going
    on sends by itself.

    Example: taudl sync runs/first
    """

    runs: Annotated[tuple[str, ...], Positional]
    """Run folders."""
    uri: str = ""
    """Send to this MLflow instead of the run's own: sqlite:///FILE or http://HOST:PORT; a run that is not in it becomes a new one there."""


def main(argv: Sequence[str]) -> int:
    """Sends one run after the other."""
    args = parse(SyncArgs, argv, command="sync")
    if not args.runs:
        raise UsageError("the run folder is missing; for instance: taudl sync runs/first")
    outcomes = [sync(run, uri=args.uri) for run in args.runs]
    return 0 if all(outcomes) else 1


def sync(path: str | Path, *, uri: str = "") -> bool:
    """Sends one run; False if its MLflow is out of reach, and a line says so.

    Raises:
        UserError: no run there, one that is going on, or one that keeps no MLflow.
    """
    import contextlib
    import dataclasses

    from taudl_dist import tracking
    from taudl_dist.config import load_yaml, resolve
    from taudl_dist.errors import UserError
    from taudl_dist.training import tracked
    from taudl_dist.training.run_folder import RunFolder, locked

    run = RunFolder(path=Path(path).resolve())
    if not (run.path / "run.json").is_file():
        raise UserError(f"{path}: no run.json in it; expected a run folder of `taudl train`")
    config = dataclasses.replace(resolve(load_yaml(run.path / "config.yaml")), out=str(run.path))
    if uri:
        config = dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, uri=uri))
    if tracking.tracking_uri(config) is None:
        raise UserError(f"{path} was trained with --tracking.uri none; name an MLflow to send it to with --uri")
    with contextlib.ExitStack() as held:
        held.enter_context(locked(run.path))
        is_sent = tracked.close(config, run, status=tracked.status_of(config, run))
    if is_sent:
        place = run.info()["mlflow"]
        print(f"{path}: {tracking.address(place)}")
    return is_sent
