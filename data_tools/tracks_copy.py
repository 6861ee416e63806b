"""Tracks and ground truth of an object store, copied to the local disk for as long as a corpus is planned.

They are small beside the videos, and a plan needs all of them. Messages name the objects, not the copies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from data_tools.folder import RemoteFolder
from data_tools.tracks import TRACK_SUFFIXES
from taudl_dist.dataset.location import is_remote, local_path
from taudl_dist.errors import UserError
from taudl_dist.progress import log

_SUFFIXES = (*TRACK_SUFFIXES, ".ini")
"""Endings of what is copied; a prefix may hold videos beside it. MOTChallenge keeps the rate of a sequence in an .ini file."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Local paths of tracks and truth, and what the copies among them are copies of."""

    tracks: Path
    truth: str
    originals: dict[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str:
        """A message with the objects in place of their copies."""
        for copy, original in self.originals.items():
            text = text.replace(copy, original)
        return text


@contextmanager
def local_tracks(tracks: str | Path, truth: str) -> Iterator[Copies]:
    """Tracks and truth on the local disk; `truth` is a folder or URI, `auto` (a folder `truth` beside the tracks) or `none`."""
    if not is_remote(tracks) and not is_remote(truth):
        yield Copies(tracks=local_path(tracks), truth=str(local_path(truth)))
        return
    with tempfile.TemporaryDirectory(prefix="taudl-tracks-") as name:
        root, wanted = Path(name).resolve(), {}
        if is_remote(tracks):
            beside, own, options = _split(str(tracks))
            wanted[own] = str(tracks)
            if truth == "auto" and beside:
                wanted["truth"] = f"{beside}/truth{options}"
            tracks = root / own
        if is_remote(truth):
            wanted["truth"], truth = truth, str(root / "truth")
        originals = {str(root / own): _copy(uri, root / own) for own, uri in wanted.items()}
        copies = Copies(tracks=Path(tracks), truth=truth, originals=originals)
        try:
            yield copies
        except UserError as error:
            raise type(error)(copies.named(str(error))) from None


def _split(uri: str) -> tuple[str, str, str]:
    """URI of the folder it stands in (empty for a bucket), its name there, and the options with their question mark."""
    base, mark, options = uri.partition("?")
    beside, own = base.rstrip("/").rsplit("/", 1)
    return ("" if beside.endswith("/") else beside), unquote(own), mark + options


def _copy(uri: str, target: Path) -> str:
    """Copies a file or a folder; what messages call it."""
    beside, own, options = _split(uri)
    if beside:
        parent = RemoteFolder(beside + options).storage
        if parent.size(own) is not None:
            parent.copy_file(own, target)
            log(f"{parent.where(own)}: copied to {target} while the corpus is planned")
            return parent.where(own)
    folder = RemoteFolder(uri)
    storage = folder.storage
    names = [name for name in storage.files(recursive=True) if PurePosixPath(name).suffix in _SUFFIXES]
    for name in names:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise UserError(f"{storage.where(name)}: a name that leads out of its folder; rename the object")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    for _ in folder.map(lambda name: storage.copy_file(name, target / name), names):
        pass
    if names:
        log(f"{storage.uri}: copied to {target} while the corpus is planned ({len(names)} files)")
    return storage.uri
