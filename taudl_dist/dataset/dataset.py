"""Opening a dataset: dataset.json and the training index, in well under a second whatever the size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.dataset.index import TrainingIndex, open_index
from taudl_dist.dataset.schema import DATASET_FILE, FORMAT, SHARDS_DIR, SPLITS, VERSION, shard_name
from taudl_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A finished dataset folder; `info` is dataset.json."""

    path: Path
    digest: str
    cameras: list[str]
    shards: list[str]
    info: dict[str, Any]
    training: TrainingIndex

    def shard_path(self, shard: int) -> Path:
        """Where the tar of that number lies."""
        return self.path / SHARDS_DIR / self.shards[shard]


def open_dataset(path: str | Path) -> Dataset:
    """Opens a dataset folder; its shards are not touched.

    Raises:
        UserError: not a finished dataset, another format version, or files that contradict each other.
    """
    path = Path(path)
    info = read_info(path)
    return Dataset(
        path=path,
        digest=info["digest"],
        cameras=[camera["name"] for camera in info["cameras"]],
        shards=[shard["name"] for shard in info["shards"]],
        info=info,
        training=open_index(path, [camera["num_tracklets"] for camera in info["cameras"]]),
    )


def read_info(path: str | Path) -> dict[str, Any]:
    """dataset.json, checked: format, version, types, counts, and names that stay inside the folder."""
    file = Path(path) / DATASET_FILE
    try:
        info = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_missing(Path(path))) from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); make the dataset again") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(
            f"{file}: no field format={FORMAT!r} in it; expected a folder made by `taudl shard` or `import`"
        )
    if info.get("version") != VERSION:
        raise UserError(
            f"{file}: format version {info.get('version')!r}, but this taudl reads version {VERSION}; make the dataset"
            " again, or use the taudl that made it"
        )
    _check_info(info, str(file))
    return info


def _check_info(info: dict[str, Any], where: str) -> None:
    try:
        typed = [
            isinstance(info["digest"], str),
            all(isinstance(c["name"], str) and _is_count(c["num_tracklets"]) for c in info["cameras"]),
            all(_is_count(s["bytes"]) and isinstance(s["sha256"], str) for s in info["shards"]),
            all(_is_count(info["splits"][split]["tracklets"]) for split in SPLITS),
        ]
        names = [camera["name"] for camera in info["cameras"]]
        "".join(names).encode()  # JSON can spell half a character, which no table can hold
        shards = [shard_name(shard["name"], where) for shard in info["shards"]]
    except (KeyError, TypeError, UnicodeEncodeError) as error:
        raise UserError(f"{where}: field {error} is missing or of the wrong type; make the dataset again") from None
    if not all(typed) or len(set(names)) < len(names) or len(set(shards)) < len(shards):
        raise UserError(f"{where}: a field has the wrong type, or a name stands in it twice; make the dataset again")
    if sum(camera["num_tracklets"] for camera in info["cameras"]) != info["splits"]["train"]["tracklets"]:
        raise UserError(f"{where}: its cameras and its split `train` count different tracklets; make the dataset again")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _missing(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such dataset folder; `taudl shard` or `taudl import` makes one"
    if (path / "plan.json").exists():
        return f"{path}: this dataset is not finished (no {DATASET_FILE}); run its `taudl shard` command again to go on"
    return f"{path}: no {DATASET_FILE} in it; expected a folder made by `taudl shard` or `taudl import`"
