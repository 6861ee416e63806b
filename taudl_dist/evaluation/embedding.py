"""Tracklet features as a Parquet file that says which weights and which data it comes from.

Interrupt it anywhere and run it again: finished pieces are not made again. At equal CPU threads per process the same bytes come out,
whatever the number of workers and interruptions; other threads, CPUs or GPUs may round differently.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.atomic import whole_file
from taudl_dist.dataset import Dataset, absolute, open_dataset, read_manifest
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.pieces import Device, Piece, PieceFolder, Request, cut_pieces, make_pieces
from taudl_dist.progress import log
from taudl_dist.training.run_folder import locked

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, VERSION = "taudl-features", 2


def write_features(
    data: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    split: str = "all",
    frames: int = 0,
    flip: bool = False,
    normalize: bool = False,
    workers: int = 1,
    threads: int = 0,
    device: Device = "cpu",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embeds the tracklets of a split (or `all`) and writes them in manifest order; returns what was written.

    Columns: key, camera, split (string), feature (fixed-size list of float32). The schema's metadata holds format,
    version and `Request.facts`. A file of the same request that is there already is left alone.

    Args:
        workers: more than one: Ray tasks, here or on the cluster of RAY_ADDRESS.
        threads: CPU threads of each process; 0: one with several workers, else all that this process may use.
        device: what each process takes, see `make_pieces`.

    Raises:
        UserError: another file or folder of that name, an embedding that was begun with other settings, damaged data.
    """
    from taudl_dist.evaluation.evaluate import model_digest, weights_path

    out = Path(out)
    if workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
    if threads < 0:
        raise UsageError(f"--threads {threads}: expected 0 (as many as suit) or more")
    threads = threads or (1 if workers > 1 else len(os.sched_getaffinity(0)))
    dataset = open_dataset(data)
    request = Request(
        data=absolute(str(data)),
        model=str(weights_path(model).resolve()),
        dataset_digest=dataset.digest,
        model_digest=model_digest(model),
        split=split,
        frames=frames,
        flip=flip,
        normalize=normalize,
    )
    folder = PieceFolder(path=out.with_name(f"{out.name}.pieces"))
    if _is_done(out, request, overwrite=overwrite):
        folder.remove()
        return _written(out, request)
    pieces = cut_pieces(_rows(dataset, split), frames=frames)
    with locked(folder.path, command="embed"):
        folder.open(request, restart=overwrite)
        missing = folder.missing(pieces)
        if len(missing) < len(pieces):
            log(f"{folder.path}: going on; {len(pieces) - len(missing)} of {len(pieces)} pieces are done")
        for piece, features in make_pieces(request, missing, workers=workers, threads=threads, device=device):
            folder.write(piece, features)
        _merge(out, folder, pieces, request)
        folder.remove()
    return _written(out, request)


def _is_done(out: Path, request: Request, *, overwrite: bool) -> bool:
    """Whether the file is there already, of the same request.

    Raises:
        UserError: something else is there, and may not be replaced.
    """
    if out.is_dir():
        raise UserError(f"{out} exists; choose another name")
    if overwrite or not out.exists():
        return False
    wanted = {"format": FORMAT, "version": str(VERSION), **request.facts}
    found = stored_facts(out)
    other = next((name for name in wanted if found.get(name) != wanted[name]), None)
    if other:
        raise UserError(
            f"{out} exists: found {other} {found.get(other)}, expected {other} {wanted[other]}; choose another name or pass"
            " --overwrite"
        )
    log(f"{out}: these features are there already; nothing to do")
    return True


def stored_facts(path: Path) -> dict[str, str]:
    """What a Parquet file's metadata says; nothing where it is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return facts_in(pq.read_schema(path))
    except (pa.ArrowInvalid, OSError):
        return {}


def facts_in(schema: pa.Schema) -> dict[str, str]:
    """The metadata of a schema, without Arrow's own."""
    metadata = schema.metadata or {}
    return {name.decode(): value.decode() for name, value in metadata.items() if name != b"ARROW:schema"}


def _rows(dataset: Dataset, split: str) -> pa.Table:
    rows = read_manifest(dataset, splits=SPLITS if split == "all" else (split,))
    if not rows.num_rows:
        raise UserError(f"{dataset.location} has no tracklets in split {split}; `taudl info` tells what it holds")
    return rows.combine_chunks()


def _merge(out: Path, folder: PieceFolder, pieces: Sequence[Piece], request: Request) -> None:
    """One file of all pieces, in their order; one piece in memory."""
    import pyarrow.parquet as pq

    with whole_file(out) as temporary:
        writer = None
        for piece in pieces:
            features = folder.read(piece)
            if features is None:
                raise UserError(f"{folder.path}: piece {piece.number} is gone; run the same command again")
            table = feature_table(piece.rows, features, request.facts)
            writer = writer or pq.ParquetWriter(temporary, table.schema, use_dictionary=["camera", "split"])
            writer.write_table(table)
        assert writer is not None, "a split without tracklets was refused"
        writer.close()


def feature_table(rows: pa.Table, features: np.ndarray, facts: dict[str, str]) -> pa.Table:
    """Manifest rows and their features (N, D) as one table, `facts` as its metadata."""
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel(), pa.float32()), features.shape[1])
    table = rows.select(["key", "camera", "split"]).append_column("feature", column)
    return table.replace_schema_metadata({"format": FORMAT, "version": str(VERSION), **facts})


def _written(out: Path, request: Request) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(out) as file:
        feature_dim = file.schema_arrow.field("feature").type.list_size
        return {"path": str(out), "num_tracklets": file.metadata.num_rows, "feature_dim": feature_dim, **request.facts}
