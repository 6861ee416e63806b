"""Who makes a dataset: the `taudl shard` that was started last, and no other.

A lock would have to be left behind by a process that is killed, which no object store and not every network disk can do. So each
driver writes its name over that of the one before, and stops as soon as it finds another's: two of them never finish one dataset at
once, where each would delete the attempts that the other has chosen.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data_tools.folder import Folder, read_if_there
from taudl_dist.dataset.storage import StoreError
from taudl_dist.errors import UserError

DRIVER_FILE = "driver.json"
"""There while a driver is at work, and after one that was killed."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A driver's hold on a folder."""

    folder: Folder
    driver: dict[str, Any]

    def check(self) -> None:
        """
        Raises:
            UserError: another driver was started on the folder since.
        """
        found = read_driver(self.folder)
        if found is None:
            raise UserError(
                f"{self.folder}: its {DRIVER_FILE} is gone: another `taudl shard` finished it, or it was deleted; run the same command"
                " again"
            )
        if found != self.driver:
            raise UserError(
                f"{self.folder}: another `taudl shard` was started on it after this one ({found['host']}, pid {found['pid']}, at"
                f" {found['since']}) and goes on from here; what this one did is kept"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The driver's work; after it nobody is at work any more, unless it was killed or the store failed."""
        try:
            yield
        except StoreError:
            raise
        except UserError:
            with suppress(UserError, OSError):
                self.check()
                self.release()
            raise
        self.release()

    def release(self) -> None:
        """Takes the name away."""
        self.folder.remove([DRIVER_FILE])


def claim(folder: Folder) -> Claim:
    """Takes a folder over from whoever had it."""
    driver = {
        "id": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    folder.prepare([])
    folder.write(DRIVER_FILE, json.dumps(driver).encode())
    return Claim(folder=folder, driver=driver)


def read_driver(folder: Folder) -> dict[str, Any] | None:
    """The driver that was started last, unless it came to its end."""
    content = read_if_there(folder, DRIVER_FILE)
    try:
        driver = json.loads(content or b"null")
        return {name: driver[name] for name in ("id", "host", "pid", "since")}
    except (ValueError, KeyError, TypeError):
        return None
