"""The training index: an uncompressed Arrow file, memory-mapped, so that its size does not matter when it is opened.

Whole columns are views of the mapped file. Scattered rows are read with `TrainingIndex.take`, which maps nothing: a mapped file
becomes resident as its rows are touched (1.1 GB after 10^4 steps over 5 x 10^7 rows, where the kernel maps 2 MB a touch), and its
read-ahead made a first step on a cold disk take 140 ms instead of 1.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from taudl_dist.dataset.bounded import open_plain
from taudl_dist.dataset.schema import INDEX_FILE, INDEX_SCHEMA
from taudl_dist.errors import UserError

Column = Literal["label", "shard", "offset", "length", "num_frames"]


@dataclass(frozen=True, kw_only=True)
class TrainingIndex:
    """Columns of the training tracklets, read-only; rows in order of (camera, label).

    camera_offsets (T+1,) int64: rows camera_offsets[c] .. camera_offsets[c+1]-1 are camera c's M_c tracklets.
    label (N,) int32, shard (N,) int32, offset (N,) int64, length (N,) int64, num_frames (N,) int32.
    """

    camera_offsets: np.ndarray
    label: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    num_frames: np.ndarray
    file: ColumnFile | None = None
    """Where the columns lie; None if in memory."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, column: Column, rows: np.ndarray) -> np.ndarray:
        """One column's values at these rows (n,), as a copy; costs about a microsecond a row and no memory.

        Raises:
            IndexError: a row outside 0..N-1.
            UserError: the file was cut short while it was open.
        """
        values = getattr(self, column)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of an index of {len(self)} tracklets")
        return values[rows] if self.file is None else self.file.read(column, values.dtype, rows)


class ColumnFile:
    """An open index file, and the byte at which each column starts; closes itself with its last reference."""

    def __init__(self, path: Path, starts: Mapping[str, int]) -> None:
        self.path, self.starts = path, starts
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, column: str, dtype: np.dtype, rows: np.ndarray) -> np.ndarray:
        """Single values, all of them announced to the system first, so that a cold disk reads them together."""
        descriptor, size = self._descriptor, dtype.itemsize
        places = (self.starts[column] + size * rows.astype(np.int64)).tolist()
        for place in places:
            os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)
        data = b"".join([os.pread(descriptor, size, place) for place in places])
        if len(data) != size * len(places):
            raise UserError(
                f"{self.path}: shorter than when it was opened; make the dataset again, and leave it alone while it is used"
            )
        return np.frombuffer(data, dtype)


def open_index(folder: Path, tracklets_per_camera: list[int]) -> TrainingIndex:
    """The training index of a dataset folder, zero-copy.

    Raises:
        UserError: missing, damaged, of another schema, or with other row counts than dataset.json.
    """
    path = folder / INDEX_FILE
    try:
        open_plain(path).close()
        mapped = pa.memory_map(str(path)).read_buffer()
        reader = pa.ipc.open_file(mapped)
        _refuse_compressed(mapped, path)
        if reader.schema != INDEX_SCHEMA:
            raise UserError(
                f"{path}: columns {reader.schema.names}, expected {INDEX_SCHEMA.names} of"
                f" {[str(kind) for kind in INDEX_SCHEMA.types]}; make the dataset again"
            )
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is not None:
            batch.validate()  # that its columns lie inside the file; costs nothing
        if batch is None or any(column.null_count for column in batch.columns):
            raise UserError(f"{path}: expected one record batch without nulls; make the dataset again")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; the dataset is incomplete: run the command that makes it again"
        ) from None
    except (pa.ArrowInvalid, OSError, struct.error) as error:
        raise UserError(f"{path}: damaged ({error}); see `taudl validate`, then make the dataset again") from None
    camera_offsets = np.concatenate([[0], np.cumsum(tracklets_per_camera, dtype=np.int64)]).astype(np.int64)
    if camera_offsets[-1] != batch.num_rows:
        raise UserError(
            f"{path}: {batch.num_rows} rows, but dataset.json counts {camera_offsets[-1]} training tracklets; the files"
            " do not belong together: make the dataset again"
        )
    columns = {name: batch.column(name).to_numpy(zero_copy_only=True) for name in INDEX_SCHEMA.names}
    starts = {name: values.ctypes.data - mapped.address for name, values in columns.items()}
    file = ColumnFile(path, starts)
    return TrainingIndex(camera_offsets=camera_offsets, file=file, **columns)


def _refuse_compressed(mapped: pa.Buffer, path: Path) -> None:
    """A few bytes of a compressed column can ask for any amount of memory, and pyarrow gives it before anybody can look.

    Looks where Arrow's format has the field: Message.header (a RecordBatch).compression, of the second message in the file.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(mapped.slice(8)))
    messages.read_next_message()  # the schema
    data = messages.read_next_message().metadata.to_pybytes()

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(kind, data, at)[0]

    def field(table: int, place: int) -> int:
        vtable = table - number("<i", table)
        known = 4 + 2 * place < number("<H", vtable)
        return table + number("<H", vtable + 4 + 2 * place) if known and number("<H", vtable + 4 + 2 * place) else 0

    header = field(number("<I", 0), 2)
    if field(header + number("<I", header), 3):
        raise UserError(f"{path}: compressed, which an index never is; make the dataset again")


def write_index(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes the columns of INDEX_SCHEMA as one uncompressed record batch, at exactly this path."""
    arrays = [pa.array(columns[field.name], type=field.type) for field in INDEX_SCHEMA]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=INDEX_SCHEMA))
