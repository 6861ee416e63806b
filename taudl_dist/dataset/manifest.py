"""The manifest, for evaluation and tools: the only reader that sees person ids. Training opens the index instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from taudl_dist.dataset.bounded import open_plain
from taudl_dist.dataset.dataset import Dataset, open_dataset, read_info
from taudl_dist.dataset.location import is_remote
from taudl_dist.dataset.schema import MANIFEST_FILE, MANIFEST_SCHEMA
from taudl_dist.errors import UserError


def read_manifest(dataset: str | Path | Dataset, *, splits: Sequence[str] = ("query", "gallery")) -> pa.Table:
    """Rows of these splits, in manifest order, with the columns of MANIFEST_SCHEMA.

    Raises:
        UserError: missing, damaged, of another schema, or with other counts than dataset.json.
    """
    if isinstance(dataset, str) and is_remote(dataset):
        dataset = open_dataset(dataset)
    if isinstance(dataset, Dataset):
        info, path = dataset.info, dataset.file(MANIFEST_FILE)
    else:
        info, path = read_info(dataset), Path(dataset) / MANIFEST_FILE
    try:
        open_plain(path).close()
        _refuse_bomb(path)
        schema = pq.read_schema(path).remove_metadata()
        if schema != MANIFEST_SCHEMA:
            raise UserError(f"{path}: columns {schema.names}, expected {MANIFEST_SCHEMA.names}; make the dataset again")
        table = pq.read_table(path, filters=[("split", "in", list(splits))]).replace_schema_metadata(None)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the command that makes the dataset again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); see `taudl validate`, then make the dataset again") from None
    expected = sum(info["splits"][split]["tracklets"] for split in splits)
    if table.num_rows != expected:
        raise UserError(
            f"{path}: {table.num_rows} tracklets in {', '.join(splits)}, but dataset.json counts {expected}; the files do"
            " not belong together: make the dataset again"
        )
    times_s = pa.concat_arrays([*table["start_s"].chunks, *table["end_s"].chunks])
    if not pc.all(pc.is_finite(times_s), min_count=0).as_py() or (table["num_frames"].to_numpy() < 1).any():
        raise UserError(f"{path}: damaged (tracklets without a finite time or without images); make the dataset again")
    return table


def _refuse_bomb(path: Path) -> None:
    """A few kilobytes can hold thousands of millions of equal rows; those of a dataset have keys of their own."""
    rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
    if rows > size:
        raise UserError(
            f"{path}: {rows} tracklets in {size} bytes; no command of taudl wrote that: make the dataset again"
        )
