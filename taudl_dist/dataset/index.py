"""The training index: an uncompressed Arrow file, memory-mapped, so that its size does not matter when it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from taudl_dist.dataset.schema import INDEX_FILE, INDEX_SCHEMA
from taudl_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingIndex:
    """Columns of the training tracklets, read-only views of the mapped file; rows in order of (camera, label).

    camera_offsets (T+1,) int64: rows camera_offsets[c] .. camera_offsets[c+1]-1 are camera c's M_c tracklets.
    label (N,) int32, shard (N,) int32, offset (N,) int64, length (N,) int64, num_frames (N,) int32.
    """

    camera_offsets: np.ndarray
    label: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    num_frames: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def open_index(folder: Path, tracklets_per_camera: list[int]) -> TrainingIndex:
    """The training index of a dataset folder, zero-copy.

    Raises:
        UserError: missing, damaged, of another schema, or with other row counts than dataset.json.
    """
    path = folder / INDEX_FILE
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != INDEX_SCHEMA:
            raise UserError(
                f"{path}: columns {reader.schema.names}, expected {INDEX_SCHEMA.names} of"
                f" {[str(kind) for kind in INDEX_SCHEMA.types]}; make the dataset again"
            )
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is None or any(column.null_count for column in batch.columns):
            raise UserError(f"{path}: expected one record batch without nulls; make the dataset again")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; the dataset is incomplete: run the command that makes it again"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); see `taudl validate`, then make the dataset again") from None
    camera_offsets = np.concatenate([[0], np.cumsum(tracklets_per_camera, dtype=np.int64)]).astype(np.int64)
    if camera_offsets[-1] != batch.num_rows:
        raise UserError(
            f"{path}: {batch.num_rows} rows, but dataset.json counts {camera_offsets[-1]} training tracklets; the files"
            " do not belong together: make the dataset again"
        )
    columns = {name: batch.column(name).to_numpy(zero_copy_only=True) for name in INDEX_SCHEMA.names}
    return TrainingIndex(camera_offsets=camera_offsets, **columns)


def write_index(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes the columns of INDEX_SCHEMA as one uncompressed record batch, at exactly this path."""
    arrays = [pa.array(columns[field.name], type=field.type) for field in INDEX_SCHEMA]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=INDEX_SCHEMA))
