"""The work on one unit: decode its window of the videos once, cut the planned crops, write and commit the shard.

Damage in a video costs the tracklets it touches, not the unit; they are named in the unit's commit record.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.crops import encode_crop
from data_tools.folder import Folder
from data_tools.shard_writer import ShardTracklet, write_unit
from data_tools.source_files import Source
from data_tools.unit_cut import frames_of
from data_tools.video import iter_pictures
from taudl_dist.dataset.storage import StoreError, WriteError
from taudl_dist.errors import UserError

PLAN_DIR = "plan"
_DISK_IS_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class UnitSource:
    """A video file a unit needs, and its name in the dataset."""

    video: Source
    file: str


@dataclass(frozen=True, kw_only=True)
class UnitTask:
    """All a worker needs: the dataset folder, the unit's name and camera, and its videos, as `crops.recording` counts them."""

    folder: Folder
    unit: str
    camera: str
    sources: tuple[UnitSource, ...]
    num_crops: int
    max_height: int
    plan_digest: str


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What went wrong: `problem` for the whole unit, `failed` tracklets by key; is_target_lost: no unit can be written any more."""

    problem: str | None = None
    failed: dict[str, str] = field(default_factory=dict)
    is_target_lost: bool = False


def cut_unit(task: UnitTask, failed: dict[str, str]) -> Iterator[int]:
    """Makes one unit; yields after each decoded frame how many crops it gave, and notes in `failed` the tracklets that are lost.

    Raises:
        UserError: no tracklet is left.
    """
    crops = pq.read_table(io.BytesIO(task.folder.read(f"{PLAN_DIR}/{task.unit}.parquet")))
    boxes = np.stack([crops[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    jpegs = [b""] * crops.num_rows
    for position, source in enumerate(task.sources):
        rows = np.flatnonzero(crops["recording"].to_numpy() == position)
        try:
            yield from _cut_source(source, crops.take(rows), boxes[rows], rows, jpegs, max_height=task.max_height)
        except StoreError:  # the network's fault, not the video's: the unit as a whole can be tried again
            raise
        except UserError as error:
            lost = {crops["key"][row].as_py() for row in rows.tolist() if not jpegs[row]}
            failed |= dict.fromkeys(sorted(lost), str(error))
    if failed:
        keep = pc.invert(pc.is_in(crops["key"], pa.array(list(failed)))).to_numpy(zero_copy_only=False)
        if not keep.any():
            raise UserError(next(iter(failed.values())))
        crops, boxes, jpegs = crops.filter(pa.array(keep)), boxes[keep], [jpegs[row] for row in np.flatnonzero(keep)]
    write_unit(
        task.folder, task.unit, _tracklets(task, crops, boxes, jpegs), plan_digest=task.plan_digest, failed=failed
    )


def _cut_source(
    source: UnitSource, crops: pa.Table, boxes: np.ndarray, rows: np.ndarray, jpegs: list[bytes], *, max_height: int
) -> Iterator[int]:
    """Fills `jpegs` at `rows` (n,) with the crops of one video, whose boxes are (n, 4)."""
    frame = crops["frame"].to_numpy()
    order = np.argsort(frame, kind="stable")
    wanted, route = frames_of(crops)
    begin = np.searchsorted(frame[order], wanted)
    pictures = iter_pictures(source.video, wanted=wanted, route=route)
    for members, (_, picture) in zip(np.split(order, begin[1:]), pictures, strict=True):
        for member in members.tolist():
            jpegs[rows[member]] = encode_crop(picture.cut(boxes[member]), max_height=max_height)
        yield len(members)


def unit_steps(task: UnitTask) -> Iterator[int | UnitResult]:
    """Makes one unit: yields numbers of crops on the way, and in the end what went wrong, of which no worker must die."""
    failed: dict[str, str] = {}
    try:
        yield from cut_unit(task, failed)
        yield UnitResult(failed=failed)
    except (UserError, OSError, MemoryError) as error:
        yield _failure(error)


def make_unit(task: UnitTask) -> UnitResult:
    """Makes one unit and returns what went wrong."""
    *_, result = unit_steps(task)
    assert isinstance(result, UnitResult)
    return result


def _failure(error: Exception) -> UnitResult:
    is_target_lost = isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno in _DISK_IS_LOST)
    return UnitResult(problem=str(error) or type(error).__name__, is_target_lost=is_target_lost)


def _tracklets(task: UnitTask, crops: pa.Table, boxes: np.ndarray, jpegs: list[bytes]) -> Iterator[ShardTracklet]:
    keys = crops["key"].to_numpy(zero_copy_only=False)
    names = ("splits", "label", "person_id", "track", "frame", "time_s", "recording")
    columns = {name: crops[name].to_pylist() for name in names}
    start = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    for first, stop in zip(start.tolist(), [*start[1:].tolist(), len(keys)]):
        frames, times_s = columns["frame"][first:stop], columns["time_s"][first:stop]
        yield ShardTracklet(
            key=keys[first],
            camera=task.camera,
            splits=tuple(columns["splits"][first].split("+")),
            label=columns["label"][first],
            person_id=columns["person_id"][first],
            start_s=times_s[0],
            end_s=times_s[-1],
            images=list(zip(frames, jpegs[first:stop])),
            meta={
                "camera": task.camera,
                "track": columns["track"][first],
                "frames": frames,
                "times_s": times_s,
                "boxes": boxes[first:stop].tolist(),
                "source": task.sources[columns["recording"][first]].file,
            },
        )
