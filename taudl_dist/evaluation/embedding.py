"""Tracklet features as a Parquet file that says which weights and which data it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.atomic import whole_file
from taudl_dist.errors import UsageError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, VERSION = "taudl-features", 1


def write_features(
    data: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    split: str = "all",
    frames: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embeds the tracklets of a split (or `all`) and writes them in manifest order; returns what was written.

    Columns: key, camera, split (string), feature (fixed-size list of float32). The schema's metadata holds format,
    version, dataset_digest, model_digest and frames.
    """
    import pyarrow.parquet as pq

    from taudl_dist.dataset import open_dataset, read_manifest
    from taudl_dist.dataset.schema import SPLITS
    from taudl_dist.evaluation.evaluate import model_digest, weights_path
    from taudl_dist.evaluation.features import embed
    from taudl_dist.model import load_model

    out = Path(out)
    if frames < 0:
        raise UsageError(f"--frames {frames}: expected 0 (all) or more")
    if out.is_dir() or (out.exists() and not overwrite):
        remedy = "" if out.is_dir() else " or pass --overwrite"
        raise UserError(f"{out} exists; choose another name{remedy}")
    dataset = open_dataset(data)
    weights = weights_path(model)
    rows = read_manifest(dataset, splits=SPLITS if split == "all" else (split,))
    if not rows.num_rows:
        raise UserError(f"{dataset.location} has no tracklets in split {split}; `taudl info` tells what it holds")
    features = embed(load_model(weights.parent, device=device), dataset, rows, frames=frames, device=device)
    facts = {"dataset_digest": dataset.digest, "model_digest": model_digest(model), "frames": str(frames)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        pq.write_table(feature_table(rows, features, facts), temporary)
    return {"path": str(out), "num_tracklets": len(features), "feature_dim": features.shape[1], "split": split, **facts}


def feature_table(rows: pa.Table, features: np.ndarray, facts: dict[str, str]) -> pa.Table:
    """Manifest rows and their features (N, D) as one table, `facts` as its metadata."""
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel(), pa.float32()), features.shape[1])
    table = rows.select(["key", "camera", "split"]).append_column("feature", column)
    return table.replace_schema_metadata({"format": FORMAT, "version": str(VERSION), **facts})
