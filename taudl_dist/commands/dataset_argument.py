"""The dataset a command works on, given as its argument or with --data."""

from __future__ import annotations

from tyro.conf import Positional

from taudl_dist.errors import UsageError

__all__ = ["Positional", "dataset_path"]


def dataset_path(argument: str, flag: str) -> str:
    """The one folder that was given: a local path, also where it was written as file://, or the URI of an object store."""
    from taudl_dist.dataset.location import is_remote, local_path

    if bool(argument) == bool(flag):
        found = f"both {argument!r} and --data {flag!r}" if argument else "none"
        raise UsageError(f"found {found}; expected one dataset folder, as argument or with --data")
    data = argument or flag
    return data if is_remote(data) else str(local_path(data))
