"""What a dataset folder holds: names, Arrow schemas, format version, digest.

The digest is a function of the logical content (cameras, shard checksums, manifest columns), not of folder names or of the
bytes another pyarrow would write; two datasets of one digest give the same batches.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa

from taudl_dist.errors import UserError

FORMAT = "taudl-dataset"
VERSION = 1
SPLITS = ("train", "query", "gallery")

DATASET_FILE = "dataset.json"
MANIFEST_FILE = "tracklets.parquet"
INDEX_FILE = "tracklets.arrow"
SHARDS_DIR = "shards"

_SHARD_NAME = re.compile(r"[A-Za-z0-9_-]+\.tar")

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("camera", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("person_id", pa.int64()),
    ]
)
"""One row a tracklet, all splits. `label`: 0..M_t-1 within its camera for `train`, else -1. `person_id` is known for
benchmarks and ground truth only (0 distractor, -1 junk); evaluation alone reads this table."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
    ]
)
"""Rows of split `train` in order of (camera, label): all that training reads of the manifest, hence no `person_id`."""


def dataset_digest(cameras: list[str], shards: list[dict[str, Any]], manifest: pa.Table) -> str:
    """sha256 (hex) of what a dataset holds: camera names, shard names, sizes and checksums, every manifest column."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "cameras": cameras,
        "shards": [[shard["name"], shard["bytes"], shard["sha256"]] for shard in shards],
        "rows": manifest.num_rows,
    }
    total = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    hash_table(total, manifest.select(MANIFEST_SCHEMA.names))
    return total.hexdigest()


def hash_table(total: Any, table: pa.Table) -> None:
    """Feeds a table's names and values to a hashlib object, whatever its chunks and whatever wrote it."""
    for field in table.schema:
        total.update(field.name.encode() + b"\0")
        _hash_column(total, table.column(field.name), field.type)


def _hash_column(total: Any, column: pa.ChunkedArray, kind: pa.DataType) -> None:
    """Feeds values in a layout of our own: little-endian numbers; strings as lengths and joined bytes; nulls marked."""
    import pyarrow.compute as pc

    if pa.types.is_string(kind):
        lengths = pc.binary_length(column)
        total.update(lengths.to_numpy().astype("<i8").tobytes())
        for chunk in column.chunks:
            offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if len(chunk) and chunk.buffers()[2]:
                total.update(chunk.buffers()[2][int(offsets[0]) : int(offsets[-1])])
        return
    if column.null_count:
        total.update(np.packbits(column.is_null().to_numpy()).tobytes())
    dtype = np.dtype(kind.to_pandas_dtype()).newbyteorder("<")
    total.update(pc.fill_null(column, 0).to_numpy().astype(dtype).tobytes())


def shard_file(shard: dict[str, Any]) -> Any:
    """What the tar of an entry of dataset.json is called: its name, unless an object store has it under that of an attempt."""
    return shard.get("file", shard["name"])


def shard_name(name: Any, where: str) -> str:
    """The name itself, when it is a plain file name; what a dataset file says must not lead out of the dataset folder.

    Raises:
        UserError: anything with a path in it.
    """
    if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
        raise UserError(
            f"{where}: shard name {str(name)[:80]!r} is not a plain file name like cam1-00000.tar; the file is damaged or was not"
            " written by taudl: make the dataset again"
        )
    return name
