"""Who looks like this? The tracklets nearest to a tracklet, or to an image of a person, over all cameras. No label is read."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.distances import Metric
from taudl_dist.evaluation.features import Extractor, extractor, unit_length
from taudl_dist.evaluation.gallery import EmbeddedTracklets, StoredFeatures, open_features
from taudl_dist.evaluation.nearest import Query, nearest

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset

_SHOWN = ("key", "camera", "split", "start_s", "end_s", "num_frames")
"""What a result tells of a tracklet."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how.

    Args:
        model: a run folder, a folder with model.safetensors, or that file; empty: `features` alone.
        features: a file of `taudl embed`; empty: the gallery is embedded.
        frames, flip, normalize: as in `taudl embed`; with `features` the file decides.
        other_cameras: leave out what the query's own camera saw.
    """

    dataset: Dataset
    model: str = ""
    features: str = ""
    top: int = 10
    frames: int = 0
    flip: bool = False
    normalize: bool = False
    metric: Metric = "euclidean"
    other_cameras: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"--top {self.top}: expected at least 1")
        if self.frames < 0:
            raise UsageError(f"--frames {self.frames}: expected 0 (all) or more")
        for name in ("frames", "flip", "normalize") if self.features else ():
            if getattr(self, name):
                raise UsageError(f"--{name}: the file of --features decides that; leave out one of the two")
        if not self.model and not self.features:
            raise UsageError(
                "found neither --model nor --features; a tracklet is compared by features, give one of them"
            )


def search(wanted: Sequence[str], settings: Search) -> dict[str, Any]:
    """The nearest tracklets of each query, as `taudl search --json` prints them.

    Args:
        wanted: keys of the dataset's tracklets, and paths of images.

    Raises:
        UserError: neither a key nor an image, or features of another dataset or model.
    """
    from taudl_dist.dataset import read_manifest
    from taudl_dist.dataset.schema import SPLITS
    from taudl_dist.evaluation.evaluate import model_digest

    dataset = settings.dataset
    digest = model_digest(settings.model) if settings.model else None
    manifest = each_once(read_manifest(dataset, splits=SPLITS))
    rows = rows_by_key(manifest, wanted)
    images = {name: person_image(name, dataset) for name in wanted if name not in rows}
    _check_images(images, settings)
    gallery: StoredFeatures | EmbeddedTracklets
    if settings.features:
        gallery = open_features(settings.features, dataset_digest=dataset.digest, model_digest=digest)
        extract = _extractor(settings, flip=gallery.flip)
    else:
        extract = _extractor(settings, flip=settings.flip)
        gallery = EmbeddedTracklets(
            extract=extract,
            dataset=dataset,
            rows=manifest,
            model_digest=digest or "",
            frames=settings.frames,
            flip=settings.flip,
            normalize=settings.normalize,
        )
    features = gallery.of(list(rows))
    for name, jpeg in images.items():
        feature = extract([jpeg])
        features[name] = (unit_length(feature) if gallery.normalize else feature)[0]
    cameras = {key: row["camera"] for key, row in rows.items()}
    queries = [Query(name=name, camera=cameras.get(name), feature=features[name]) for name in wanted]
    found = nearest(
        queries,
        gallery.blocks(),
        top=settings.top,
        metric=settings.metric,
        other_cameras=settings.other_cameras,
        device=settings.device,
    )
    details = rows_by_key(manifest, [hit.key for hits in found for hit in hits])
    return {
        "queries": [
            {
                "query": query.name,
                "camera": query.camera,
                "hits": [
                    {"rank": rank, "distance": hit.distance, **{name: details[hit.key][name] for name in _SHOWN}}
                    for rank, hit in enumerate(hits, start=1)
                ],
            }
            for query, hits in zip(queries, found)
        ],
        "num_gallery": gallery.num_tracklets,
        "metric": settings.metric,
        "other_cameras": settings.other_cameras,
        "frames": gallery.frames,
        "flip": gallery.flip,
        "normalize": gallery.normalize,
        "dataset": dataset.location,
        "dataset_digest": dataset.digest,
        "model_digest": gallery.model_digest,
    }


def table(result: dict[str, Any]) -> str:
    """A result as text: a ranking for each query."""
    lines = []
    for query in result["queries"]:
        hits = query["hits"]
        width = max([len("camera"), *(len(hit["camera"]) for hit in hits)])
        where = f" (camera {query['camera']})" if query["camera"] else ""
        lines.append(f"{query['query']}{where}")
        lines.append(
            f"{'rank':>4} {'distance':>9}  {'camera':{width}} {'from (s)':>10} {'to (s)':>10} {'images':>6}  tracklet"
        )
        lines += [
            f"{hit['rank']:4} {hit['distance']:9.4g}  {hit['camera']:{width}} {hit['start_s']:10.1f} {hit['end_s']:10.1f}"
            f" {hit['num_frames']:6}  {hit['key']}"
            for hit in hits
        ]
    others = ", other cameras only" if result["other_cameras"] else ""
    return "\n".join([*lines, f"nearest of {result['num_gallery']:,} tracklets by {result['metric']} distance{others}"])


def each_once(manifest: pa.Table) -> pa.Table:
    """Without the second row of a tracklet that is query and gallery both."""
    import pyarrow as pa

    first = np.unique(np.asarray(manifest["key"].to_pylist(), dtype=str), return_index=True)[1]
    return manifest.take(pa.array(np.sort(first)))


def rows_by_key(manifest: pa.Table, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The manifest's rows of some keys; a key it does not know is left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = manifest.filter(pc.is_in(manifest["key"], value_set=pa.array(sorted(set(keys)), pa.string())))
    return {row["key"]: row for row in rows.to_pylist()}


def person_image(path: str, dataset: Dataset) -> bytes:
    """An image file of a person as JPEG, upright.

    Raises:
        UserError: no such file, or not an image.
    """
    from PIL import Image, ImageOps

    if not Path(path).is_file():
        raise UserError(
            f"--query {path}: no tracklet of {dataset.location} has this key, and there is no such file; expected a key as"
            " in tracklets.parquet, or an image of a person"
        )
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--query {path}: not a readable image ({error}); expected a JPEG or PNG of a person") from None
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _check_images(images: dict[str, bytes], settings: Search) -> None:
    name = next(iter(images), None)
    if name is not None and settings.other_cameras:
        raise UsageError(
            f"--other-cameras: the image {name} is of no camera; leave out the flag, or search by a tracklet's key"
        )
    if name is not None and not settings.model:
        raise UsageError(f"--query {name} is an image, and only the model makes a feature of it; give --model")


def _extractor(settings: Search, *, flip: bool) -> Extractor:
    """The model's, loaded when it is first needed."""

    @functools.cache
    def load() -> Extractor:
        from taudl_dist.evaluation.evaluate import weights_path
        from taudl_dist.model import load_model

        model = load_model(weights_path(settings.model), device=settings.device)
        return extractor(model, flip=flip, device=settings.device)

    def extract(jpegs: list[bytes]) -> np.ndarray:
        return load()(jpegs)

    return extract
