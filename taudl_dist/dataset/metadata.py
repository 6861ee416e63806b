"""The index and the manifest of a remote dataset, copied whole to the local disk once per dataset digest."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from taudl_dist.dataset.location import cache_folder
from taudl_dist.dataset.schema import DATASET_FILE
from taudl_dist.dataset.storage import Storage
from taudl_dist.errors import UserError

DIGEST = re.compile(r"[0-9a-f]{64}")


def metadata_folder(storage: Storage, digest: str) -> Path:
    """Where the copies of a dataset lie."""
    if not DIGEST.fullmatch(digest):  # it becomes a folder's name, and comes from a file of someone else
        raise UserError(
            f"{storage.where(DATASET_FILE)}: digest {digest[:80]!r} is not a sha256; the file is damaged or was not written by"
            " taudl: make the dataset again"
        )
    return cache_folder(storage.config.cache_dir) / "datasets" / digest


def fetch_metadata(storage: Storage, folder: Path, name: str, *, dataset_json: bytes) -> Path:
    """The local copy of one file, made now if there is none; workers of one machine make it once.

    Args:
        dataset_json: what dataset.json held when its digest was read; a dataset that changes meanwhile is refused.

    Raises:
        UserError: the store fails, or the cache folder cannot be written.
    """
    copy = folder / name
    if copy.is_file():
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_file():
                temporary = folder / f"{name}.tmp-{os.getpid()}"
                storage.copy_file(name, temporary)
                if storage.read_file(DATASET_FILE) != dataset_json:
                    raise UserError(f"{storage.uri}: the dataset was replaced while it was opened; start again")
                temporary.replace(copy)
    except OSError as error:
        raise UserError(
            f"cache folder {folder}: {error.strerror or error}; set storage.cache_dir (or $XDG_CACHE_HOME) to a writable"
            " folder with room"
        ) from None
    return copy
