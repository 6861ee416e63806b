"""Opening a dataset: dataset.json and the training index, in well under a second whatever the size.

Of a dataset in an object store the index is copied to the local disk first, once per digest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.config import StorageConfig
from taudl_dist.dataset.bounded import INFO_BYTES, read_bounded
from taudl_dist.dataset.index import TrainingIndex, open_index
from taudl_dist.dataset.location import is_remote, local_path
from taudl_dist.dataset.metadata import fetch_metadata, metadata_folder
from taudl_dist.dataset.schema import (
    DATASET_FILE,
    FORMAT,
    INDEX_FILE,
    SHARDS_DIR,
    SPLITS,
    VERSION,
    shard_file,
    shard_name,
)
from taudl_dist.dataset.storage import MissingError, Storage, open_storage
from taudl_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A finished dataset; `info` is dataset.json."""

    path: Path
    """Its folder, or the local folder of copies of a remote dataset's index and manifest."""
    digest: str
    cameras: list[str]
    shards: list[str]
    """File names of the tars."""
    info: dict[str, Any]
    training: TrainingIndex
    storage: Storage | None = None
    """The object store it lies in; None if it is local."""
    dataset_json: bytes = b""

    @property
    def location(self) -> str:
        """How messages and results name it."""
        return self.storage.uri if self.storage else str(self.path)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return Path(self.location).resolve().name

    def file(self, name: str) -> Path:
        """Where the index or the manifest can be read; a remote one is fetched on its first use."""
        if self.storage is None:
            return self.path / name
        return fetch_metadata(self.storage, self.path, name, dataset_json=self.dataset_json)

    def shard_path(self, shard: int) -> Path:
        """Where the tar of that number lies, in a local dataset."""
        return self.path / SHARDS_DIR / self.shards[shard]

    def shard_location(self, shard: int) -> str:
        """How messages name the tar of that number."""
        return f"{self.location}/{SHARDS_DIR}/{self.shards[shard]}"


def open_dataset(path: str | Path, storage: StorageConfig | None = None) -> Dataset:
    """Opens a dataset, given as a folder, s3://bucket/folder or gs://bucket/folder; its shards are not touched.

    Args:
        storage: how a remote one is read; None: the defaults.

    Raises:
        UserError: not a finished dataset, another format version, files that contradict each other, or a store that fails.
    """
    if is_remote(path):
        return _open_remote(str(path), storage or StorageConfig())
    folder = local_path(path)
    info = read_info(folder)
    return Dataset(path=folder, training=_open_index(folder, info), **_named(info))


def read_info(path: str | Path) -> dict[str, Any]:
    """dataset.json of a local dataset, checked: format, version, types, counts, and names that stay inside the folder."""
    file = Path(path) / DATASET_FILE
    try:
        content = read_bounded(file, INFO_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_missing(Path(path))) from None
    except OSError as error:
        raise UserError(f"{file}: not readable ({error}); make the dataset again") from None
    return parse_info(content, str(file))


def _open_remote(uri: str, config: StorageConfig) -> Dataset:
    storage = open_storage(uri, config)
    try:
        dataset_json = storage.read_file(DATASET_FILE)
    except MissingError:
        if storage.size("plan.json") is None:
            raise
        raise UserError(_unfinished(storage.uri)) from None
    info = parse_info(dataset_json, storage.where(DATASET_FILE))
    folder = metadata_folder(storage, info["digest"])
    copy = fetch_metadata(storage, folder, INDEX_FILE, dataset_json=dataset_json)
    try:
        index = _open_index(folder, info)
    except UserError:  # a copy that the disk damaged must not stay for ever
        copy.unlink(missing_ok=True)
        fetch_metadata(storage, folder, INDEX_FILE, dataset_json=dataset_json)
        index = _open_index(folder, info)
    return Dataset(path=folder, training=index, storage=storage, dataset_json=dataset_json, **_named(info))


def _named(info: dict[str, Any]) -> dict[str, Any]:
    return {
        "digest": info["digest"],
        "cameras": [camera["name"] for camera in info["cameras"]],
        "shards": [shard_file(shard) for shard in info["shards"]],
        "info": info,
    }


def _open_index(folder: Path, info: dict[str, Any]) -> TrainingIndex:
    return open_index(folder, [camera["num_tracklets"] for camera in info["cameras"]])


def parse_info(content: bytes, where: str) -> dict[str, Any]:
    """The content of a dataset.json, checked as `read_info` does; `where` names it in messages."""
    try:
        info = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable as JSON ({error}); make the dataset again") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(
            f"{where}: no field format={FORMAT!r} in it; expected a folder made by `taudl shard` or `import`"
        )
    if info.get("version") != VERSION:
        raise UserError(
            f"{where}: format version {info.get('version')!r}, but this taudl reads version {VERSION}; make the dataset"
            " again, or use the taudl that made it"
        )
    _check_info(info, where)
    return info


def _check_info(info: dict[str, Any], where: str) -> None:
    try:
        typed = [
            isinstance(info["digest"], str),
            all(
                isinstance(c["name"], str) and len(c["name"]) <= _MOST_NAME and _is_count(c["num_tracklets"])
                for c in info["cameras"]
            ),
            all(_is_count(s["bytes"]) and isinstance(s["sha256"], str) for s in info["shards"]),
            all(_is_count(info["splits"][split]["tracklets"]) for split in SPLITS),
        ]
        names = [camera["name"] for camera in info["cameras"]]
        "".join(names).encode()  # JSON can spell half a character, which no table can hold
        shards = [shard_name(shard["name"], where) for shard in info["shards"]]
        files = [shard_name(shard_file(shard), where) for shard in info["shards"]]
    except (KeyError, TypeError, UnicodeEncodeError) as error:
        raise UserError(f"{where}: field {error} is missing or of the wrong type; make the dataset again") from None
    if not all(typed) or len(set(names)) < len(names) or len(set(shards)) < len(shards) or len(set(files)) < len(files):
        raise UserError(f"{where}: a field has the wrong type, or a name stands in it twice; make the dataset again")
    if sum(camera["num_tracklets"] for camera in info["cameras"]) != info["splits"]["train"]["tracklets"]:
        raise UserError(f"{where}: its cameras and its split `train` count different tracklets; make the dataset again")


_MOST_NAME = 255
"""Characters of a camera's name, as of the file it is named after."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _missing(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such dataset folder; `taudl shard` or `taudl import` makes one"
    if (path / "drop.json").exists():
        return f"{path}: a drop was interrupted, so this is no dataset; run `taudl drop {path} --resume` to go on"
    if (path / "plan.json").exists():
        return _unfinished(path)
    return f"{path}: no {DATASET_FILE} in it; expected a folder made by `taudl shard` or `taudl import`"


def _unfinished(where: str | Path) -> str:
    return f"{where}: this dataset is not finished (no {DATASET_FILE}); run its `taudl shard` command again to go on"
