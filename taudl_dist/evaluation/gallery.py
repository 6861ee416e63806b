"""The tracklets of a dataset with their features, block by block: embedded on the way, or out of a file of `taudl embed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import runs
from taudl_dist.evaluation.embedding import FORMAT, VERSION, facts_in
from taudl_dist.evaluation.features import Extractor, pooled_features, unit_length
from taudl_dist.evaluation.nearest import Block

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset

_BLOCK_ELEMENTS = 1 << 21
"""Feature values read at a time; the reader holds a few times as much."""
_BLOCK_TRACKLETS = 4096
"""Tracklets embedded at a time."""


@dataclass(frozen=True, kw_only=True)
class StoredFeatures:
    """A Parquet file of `taudl embed`, read a part at a time."""

    path: Path
    model_digest: str
    split: str
    frames: int
    flip: bool
    normalize: bool
    num_tracklets: int
    feature_dim: int

    def blocks(self) -> Iterator[Block]:
        """All tracklets, in the order of the file."""
        import pyarrow as pa

        rows = max(1, _BLOCK_ELEMENTS // max(1, self.feature_dim))
        try:
            with _open(self.path) as file:
                columns = ["key", "camera", "feature"]
                for batch in file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                    values = batch.column("feature").flatten().to_numpy(zero_copy_only=False)
                    yield Block(
                        keys=_strings(batch.column("key")),
                        cameras=_strings(batch.column("camera")),
                        features=values.reshape(-1, self.feature_dim),
                    )
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"--features {self.path}: damaged ({_line(error)}); run `taudl embed` again") from None

    def of(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The features (D,) of some tracklets.

        Raises:
            UserError: a key that is not in the file.
        """
        found: dict[str, np.ndarray] = {}
        for block in self.blocks() if keys else ():
            for position in np.flatnonzero(np.isin(block.keys, keys)):
                found[block.keys[position]] = block.features[position].copy()
        for key in keys:
            if key not in found:
                raise UserError(
                    f"--features {self.path}: found no tracklet {key} among {self.num_tracklets:,} of split {self.split}; embed all"
                    " splits (`taudl embed --split all`), or leave out --features"
                )
        return found


def open_features(path: str | Path, *, dataset_digest: str, model_digest: str | None) -> StoredFeatures:
    """A file of `taudl embed`, if it is of this dataset, and of this model if one is given.

    Raises:
        UserError: no such file, not one of ours, or of another dataset or model, naming both digests.
    """
    import pyarrow as pa

    path = Path(path)
    try:
        with _open(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError:
        raise UserError(f"--features {path}: no such file; `taudl embed` writes one") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--features {path}: not a readable Parquet file ({_line(error)})") from None
    facts = facts_in(schema)
    found = facts.pop("format", None), facts.pop("version", None)
    if found != (FORMAT, str(VERSION)):
        raise UserError(
            f"--features {path}: found format {found[0]!r} version {found[1]!r}, expected {FORMAT!r} version {VERSION}:"
            " run this taudl's `taudl embed`"
        )
    for name, expected in (("dataset_digest", dataset_digest), ("model_digest", model_digest)):
        if expected is not None and facts.get(name) != expected:
            raise UserError(
                f"--features {path}: its {name} is {facts.get(name)}, expected {expected}; run `taudl embed` with this"
                " dataset and model"
            )
    feature_dim = schema.field("feature").type.list_size
    return StoredFeatures(
        path=path,
        model_digest=facts["model_digest"],
        split=facts["split"],
        frames=int(facts["frames"]),
        flip=facts["flip"] == "True",
        normalize=facts["normalize"] == "True",
        num_tracklets=num_rows,
        feature_dim=feature_dim,
    )


@dataclass(frozen=True, kw_only=True)
class EmbeddedTracklets:
    """Tracklets of a dataset whose features are computed when they are asked for.

    Args:
        rows: manifest rows, each tracklet once.
        frames: evenly spaced frames averaged per tracklet; 0 takes all.
        flip: whether `extract` averages over each image and its mirror image.
        normalize: divide features by their L2 norm.
    """

    extract: Extractor
    dataset: Dataset
    rows: pa.Table
    model_digest: str
    frames: int = 0
    flip: bool = False
    normalize: bool = False

    @property
    def num_tracklets(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Block]:
        """All tracklets, in the order of the manifest."""
        for part in runs(len(self.rows), _BLOCK_TRACKLETS):
            table = self.rows.slice(part.start, part.stop - part.start)
            yield Block(
                keys=_strings(table["key"]),
                cameras=_strings(table["camera"]),
                features=self._features(table, f"tracklets {part.start:,}-{part.stop - 1:,} of {len(self.rows):,}"),
            )

    def of(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The features (D,) of some tracklets of `rows`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not keys:
            return {}
        table = self.rows.filter(pc.is_in(self.rows["key"], value_set=pa.array(keys, pa.string())))
        return dict(zip(table["key"].to_pylist(), self._features(table, "queries")))

    def _features(self, table: pa.Table, label: str) -> np.ndarray:
        features = pooled_features(self.extract, self.dataset, table, frames=self.frames, label=label)
        return unit_length(features) if self.normalize else features


def _open(path: Path) -> Any:
    """Read in pieces as they are wanted; by default a whole row group, which may be gigabytes, is loaded at once."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _strings(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), dtype=str)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
