"""Checkpoints that any number of workers can load: weights and Adam moments as safetensors, nothing pickled.

    checkpoints/step-0000000100-<attempt>/backbone.safetensors       rank 0: weights, running statistics, moments
                                          heads-00000.safetensors    each rank: the heads it owns, packed, and whose rows are whose
                                          COMPLETE.json              last, after a barrier: files, sizes, sha256, identity

A folder without COMPLETE.json does not count. One whose files disagree with it is refused by name, never passed over: the run
would silently go back in time. The name carries the attempt, so a worker that outlived its attempt cannot write into a newer one.
Files are written behind training, from a copy in memory taken between two steps.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taudl_dist.errors import UserError
from taudl_dist.training.backbone import TrainedBackbone
from taudl_dist.training.heads import TrainedHeads
from taudl_dist.training.run_folder import file_sha256, write_json
from taudl_dist.training.saved import COMPLETE, NAME, all_complete, newest, step_of  # noqa: F401  # callers know one module
from taudl_dist.training.world import World

FORMAT = "taudl-checkpoint"
VERSION = 2
BACKBONE = "backbone.safetensors"
_FILE = re.compile(r"backbone\.safetensors|heads-\d{5,}\.safetensors")

Part = tuple[dict[str, torch.Tensor], dict[str, str]]
"""Tensors and metadata of one file."""


class Saver:
    """Writes the checkpoints of one attempt of a run; each rank has one.

    `begin` copies the state and returns; a thread writes the files; `complete` makes them a checkpoint once all ranks have written.
    A caller who does not want to wait asks `is_written` on every rank first.

    Args:
        folder: the run's `checkpoints` folder.
        attempt: hexadecimal name of this start of the run, the same on all ranks.
        identity: what a run must have in common to go on from here (dataset digest, plan version, seed).
        keep: newest complete checkpoints kept.
        pinned: names of checkpoints to keep beside them, asked on rank 0 before each pruning.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: str,
        world: World,
        identity: Mapping[str, Any],
        keep: int,
        pinned: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._folder, self._attempt, self._world = folder, attempt, world
        self._identity, self._keep, self._pinned = identity, keep, pinned
        self._under_way: _Writing | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a checkpoint has begun and is not complete; the same on all ranks."""
        return self._under_way is not None

    @property
    def is_written(self) -> bool:
        """Whether this rank's files of the checkpoint under way lie on disk, or could not be written."""
        return self._under_way is not None and not self._under_way.thread.is_alive()

    def begin(self, step: int, *, backbone: TrainedBackbone, heads: TrainedHeads) -> None:
        """Copies the state after `step` steps and starts to write it; one checkpoint at a time."""
        assert self._under_way is None
        parts = {f"heads-{self._world.rank:05d}.safetensors": _copy(heads.state())}
        if self._world.rank == 0:
            parts[BACKBONE] = _copy((backbone.state(), {}))
        path = self._folder / f"step-{step:010d}-{self._attempt}"
        self._under_way = _Writing(step=step, path=path, parts=parts)
        self._under_way.thread.start()

    def wait(self) -> None:
        """Until this rank has written what is under way."""
        if self._under_way is not None:
            self._under_way.thread.join()

    def complete(self) -> Path:
        """Waits until all ranks have written, makes it a checkpoint, and prunes the oldest; a collective.

        Raises:
            UserError: a weight is not finite, or a rank wrote into a folder that rank 0 does not see.
            OSError: the state could not be written. In all cases nothing of it is left behind, and older checkpoints stay.
        """
        writing, world = self._under_way, self._world
        assert writing is not None
        self.wait()
        self._under_way = None
        outcomes = world.everyone(writing.outcome)
        files: dict[str, dict[str, Any]] = {}
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                if world.rank == 0:
                    shutil.rmtree(writing.path, ignore_errors=True)
                raise outcome
            files.update(outcome)
        return world.first(lambda: self._certify(writing, files))

    def _certify(self, writing: _Writing, files: dict[str, dict[str, Any]]) -> Path:
        """On rank 0: says that the checkpoint is complete."""
        path = writing.path
        missing = [name for name in sorted(files) if not (path / name).is_file()]
        if missing:
            shutil.rmtree(path, ignore_errors=True)
            raise UserError(
                f"checkpoint {path}: a worker wrote {missing[0]}, but the first worker does not see it; --out must be one folder"
                " on storage that all machines share"
            )
        head = {"format": FORMAT, "version": VERSION, "step": writing.step, "world_size": self._world.size}
        write_json(path / COMPLETE, {**head, **self._identity, "files": files})
        _prune(self._folder, keep=self._keep, attempt=self._attempt, step=writing.step, pinned=self._pinned())
        return path


@dataclass(kw_only=True)
class _Writing:
    """Files of one rank that a thread writes."""

    step: int
    path: Path
    parts: dict[str, Part]
    outcome: dict[str, dict[str, Any]] | Exception = field(default_factory=dict)
    """Facts of each file, or why it could not be written."""

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="taudl-checkpoint", daemon=True)

    def _run(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.outcome = {name: _write(self.path / name, *part) for name, part in self.parts.items()}
        except Exception as error:  # raised on every rank by `complete`
            self.outcome = error
        self.parts.clear()


def _copy(part: Part) -> Part:
    """In the memory of the CPU, where the next step does not change it."""
    tensors, metadata = part
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, metadata


def load(
    path: Path, *, world: World, backbone: TrainedBackbone, heads: TrainedHeads, identity: Mapping[str, Any]
) -> int:
    """Takes over a checkpoint, each rank what it owns, and returns the number of steps it has behind it; a collective.

    Raises:
        UserError: the checkpoint is damaged, or belongs to another dataset, plan or seed.
    """
    from safetensors import safe_open

    complete = _read_complete(path, identity)
    names = sorted(complete["files"])
    problems = world.everyone(_damage(path, complete["files"], names[world.rank :: world.size]))
    problem = next(filter(None, problems), None)
    if problem:
        raise UserError(f"{problem}; delete the folder {path} to go on from the checkpoint before it")
    files = {name: safe_open(path / name, framework="pt") for name in names}
    backbone_file = files.pop(BACKBONE)
    known = set(backbone_file.keys())
    try:
        backbone.load(lambda key: backbone_file.get_tensor(key) if key in known else None)
        heads.load(files.values())
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
    return complete["step"]


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad:
        raise UserError(f"{bad} is not finite, so no checkpoint was written; {diverged_remedy()}")
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # wraps a full disk, whose number tells the Ray driver not to try again
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from None
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def diverged_remedy() -> str:
    """What to try when numbers stop being finite."""
    return (
        "training has diverged: start a new run with a lower optim.lr, with optim.clip_norm=5, or with precision=fp32"
    )


def _read_complete(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    try:
        complete = json.loads((path / COMPLETE).read_text())
        found = {key: complete[key] for key in ("format", "version", "step")}
        [(entry["bytes"], entry["sha256"]) for entry in (complete["files"][BACKBONE], *complete["files"].values())]
        strange = [name for name in complete["files"] if not _FILE.fullmatch(name)]  # must not lead out of the folder
        if strange:
            raise ValueError(f"a file {strange[0][:80]!r}")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(
            f"checkpoint {path / COMPLETE}: not readable as written ({error!r}); delete the folder {path}"
        ) from None
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise UserError(
            f"checkpoint {path}: found format {found['format']!r} version {found['version']!r}, expected {FORMAT!r} version {VERSION}"
        )
    if step_of(path) != found["step"]:
        raise UserError(f"checkpoint {path}: {COMPLETE} says step {found['step']}, the name another; delete the folder")
    for key, expected in identity.items():
        if complete.get(key) != expected:
            raise UserError(f"checkpoint {path}: its {key} is {complete.get(key)!r}, this run's is {expected!r}")
    return complete


def _damage(path: Path, files: dict[str, dict[str, Any]], names: list[str]) -> str | None:
    """The first way in which the files differ from what was written, or None."""
    for name in names:
        file = path / name
        if not file.is_file():
            return f"checkpoint {path}: {name} is missing"
        if file.stat().st_size != files[name]["bytes"]:
            return f"checkpoint {path}: {name} has {file.stat().st_size} bytes, expected {files[name]['bytes']}"
        if file_sha256(file) != files[name]["sha256"]:
            return f"checkpoint {path}: the contents of {name} are not what was written (sha256 differs)"
    return None


def prune(folder: Path, *, keep: int, pinned: Collection[str]) -> None:
    """Removes complete checkpoints but the newest and the pinned ones."""
    old = sorted(all_complete(folder), key=lambda path: path.name)[:-keep]
    for path in old:
        if path.name not in pinned:
            _remove(path)


def _prune(folder: Path, *, keep: int, attempt: str, step: int, pinned: Collection[str]) -> None:
    """Removes the oldest checkpoints, and what lost attempts left: unfinished ones, and ones ahead of this attempt."""
    kept = sorted(all_complete(folder), key=lambda path: path.name)
    others = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and not path.name.endswith(attempt)]
    lost = [path for path in others if path not in kept or step_of(path) > step]
    old = [path for path in kept if path not in lost][:-keep]
    for path in [path for path in old if path.name not in pinned] + lost:
        _remove(path)


def _remove(path: Path) -> None:
    (path / COMPLETE).unlink(missing_ok=True)  # first, so that a killed removal leaves nothing that looks complete
    shutil.rmtree(path, ignore_errors=True)
