"""The work on one unit: decode its window of the video once, cut the planned crops, write and commit the shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.crops import encode_crop
from data_tools.shard_writer import ShardTracklet, write_unit
from data_tools.video import iter_frames
from taudl_dist.errors import UserError

PLAN_DIR = "plan"


@dataclass(frozen=True, kw_only=True)
class UnitTask:
    """All a worker needs: the dataset folder, the unit's name and camera, its video and where decoding starts."""

    folder: Path
    unit: str
    camera: str
    video: Path
    start: tuple[int, int] | None
    num_crops: int
    max_height: int
    plan_digest: str


def cut_unit(task: UnitTask) -> Iterator[int]:
    """Makes one unit; yields after each decoded frame how many crops it gave.

    Raises:
        UserError: the video is damaged or ends too early.
    """
    crops = pq.read_table(task.folder / PLAN_DIR / f"{task.unit}.parquet")
    frame = crops["frame"].to_numpy()
    boxes = np.stack([crops[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    order = np.argsort(frame, kind="stable")
    wanted, begin = np.unique(frame[order], return_index=True)
    jpegs = [b""] * len(frame)
    for rows, (_, picture) in zip(
        np.split(order, begin[1:]), iter_frames(task.video, wanted=wanted, start=task.start), strict=True
    ):
        for row in rows.tolist():
            jpegs[row] = encode_crop(picture, boxes[row], max_height=task.max_height)
        yield len(rows)
    write_unit(task.folder, task.unit, _tracklets(task, crops, boxes, jpegs), plan_digest=task.plan_digest)


def make_unit(task: UnitTask) -> str | None:
    """Makes one unit and returns what went wrong, for a worker that must not die of a damaged video."""
    try:
        for _ in cut_unit(task):
            pass
    except UserError as error:
        return str(error)
    return None


def _tracklets(task: UnitTask, crops: pa.Table, boxes: np.ndarray, jpegs: list[bytes]) -> Iterator[ShardTracklet]:
    keys = crops["key"].to_numpy(zero_copy_only=False)
    columns = {name: crops[name].to_pylist() for name in ("splits", "label", "person_id", "track", "frame", "time_s")}
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
                "source": task.video.name,
            },
        )
