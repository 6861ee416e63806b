"""Query and gallery of a dataset, as a protocol wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taudl_dist.errors import UserError
from taudl_dist.evaluation.matches import JUNK, Labels
from taudl_dist.evaluation.protocols import Gallery

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The tracklets to look for and those to look among, each with its person and camera as integers."""

    query: pa.Table
    gallery: pa.Table
    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray

    @property
    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids and cameras in the order of `rank_metrics`."""
        return self.query_ids, self.gallery_ids, self.query_cameras, self.gallery_cameras

    def labels(self, rows: slice = slice(None)) -> tuple[Labels, Labels]:
        """Of some queries, and of the gallery."""
        queries = Labels("query", self.query_ids[rows], self.query_cameras[rows])
        return queries, Labels("gallery", self.gallery_ids, self.gallery_cameras)


def read_probes(dataset: Dataset, *, gallery: Gallery = "stored") -> Probes:
    """The query and gallery splits of a dataset, the gallery as the protocol wants it.

    Raises:
        UserError: the dataset has none, tracklets without a person id among them, or not the gallery wanted.
    """
    from taudl_dist.dataset import read_manifest

    manifest = read_manifest(dataset, splits=("query", "gallery"))
    split = np.asarray(manifest["split"].to_pylist())
    if not (split == "query").any() or not (split == "gallery").any():
        raise UserError(
            f"{dataset.location} has {(split == 'query').sum()} query and {(split == 'gallery').sum()} gallery tracklets,"
            " and evaluation needs both: shard with --truth (a folder with truth.json, as `taudl synth` writes it),"
            " or import a benchmark with `taudl import`"
        )
    if manifest["person_id"].null_count:
        raise UserError(
            f"{dataset.location}: {manifest['person_id'].null_count} query or gallery tracklets have no person_id"
        )
    ids = np.asarray(manifest["person_id"])
    cameras = np.unique(manifest["camera"].to_pylist(), return_inverse=True)[1]
    query, held = np.flatnonzero(split == "query"), np.flatnonzero(split == "gallery")
    is_query = np.isin(places(manifest)[held], places(manifest)[query])
    if gallery == "with-queries" and is_query.sum() < len(query):
        raise UserError(
            f"{dataset.location}: {len(query) - is_query.sum()} of {len(query)} queries are not in its gallery, and the"
            " protocol ranks against the gallery with the queries; import it with --gallery with-queries, or pass"
            " --protocol mars"
        )
    if gallery == "without-queries":
        held = held[~is_query & (ids[held] != JUNK)]
    return Probes(
        query=manifest.take(query),
        gallery=manifest.take(held),
        query_ids=ids[query],
        gallery_ids=ids[held],
        query_cameras=cameras[query],
        gallery_cameras=cameras[held],
    )


def places(rows: pa.Table) -> np.ndarray:
    """A number (N,) for each stored tracklet: rows of one number, such as a query that is in the gallery too, share their images."""
    stored = np.stack([rows["shard"].to_numpy(), rows["offset"].to_numpy()], axis=1)
    return np.unique(stored, axis=0, return_inverse=True)[1].ravel()
