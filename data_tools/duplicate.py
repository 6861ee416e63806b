"""Identity duplication on purpose (Table 6): a dataset in which some tracklets are two, each under a label of its own.

A share of each camera's training tracklets is cut in the middle of its frames, as a tracker that loses a person cuts it; no identity
is read. The paper draws a second tracklet of the person instead (`taudl import mars --duplication` does so), which adds images and
another walk; here the images stay the same and the halves are alike. A larger share adds to the cuts of a smaller one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_tools.benchmarks.draws import shuffled
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.dataset import Dataset, Sample, TrackletReader, read_manifest
from taudl_dist.errors import UserError


def duplicate(dataset: Dataset, out: str | Path, *, share: float, seed: int = 0) -> Path:
    """Writes the training tracklets of a dataset, some of them cut in two, as a dataset of its own; images are copied byte for byte.

    Query and gallery stay where they are: a model trained on the copy is evaluated on the original.

    Args:
        share: of each camera's tracklets, 0 to 1, rounded to whole tracklets.
        seed: chooses them.

    Raises:
        UserError: a camera has too few tracklets of two images or more; `out` is not empty.
    """
    rows = read_manifest(dataset, splits=("train",)).to_pylist()
    cut = chosen(rows, share=share, seed=seed)
    settings = {
        "derived from": dataset.digest,
        "identity duplication": share,
        "seed": seed,
        "how": "tracklets cut in the middle, each half under a label of its own",
    }
    tracklets = _tracklets(dataset, rows, cut)
    return write_dataset(out, tracklets, settings=settings, source={"dataset": dataset.location})


def chosen(rows: list[dict[str, Any]], *, share: float, seed: int) -> set[str]:
    """Keys of the tracklets to cut, of manifest rows.

    Raises:
        UserError: not enough tracklets that can be cut.
    """
    if not 0 <= share <= 1:
        raise UserError(f"a duplication of {share}: expected a share from 0 to 1, such as 0.1 for 10 %")
    cut: set[str] = set()
    for camera in sorted({row["camera"] for row in rows}):
        here = [row for row in rows if row["camera"] == camera]
        able = [row["key"] for row in here if row["num_frames"] > 1]
        number = round(share * len(here))
        if number > len(able):
            raise UserError(
                f"a duplication of {share:g}: camera {camera} has {len(here)} tracklets, {len(able)} of them with more than one"
                f" image, where {number} have to be cut in two; take a smaller share"
            )
        cut |= set(shuffled(able, seed=seed, purpose=f"cuts in {camera}")[:number])
    return cut


def _tracklets(dataset: Dataset, rows: list[dict[str, Any]], cut: set[str]) -> Iterator[ImportTracklet]:
    reader = TrackletReader(dataset)

    @functools.lru_cache(
        maxsize=2
    )  # the halves of a tracklet may stand in two shards that are written one after the other
    def sample(shard: int, offset: int, length: int) -> Sample:
        return reader.read_sample(shard, offset, length)

    for row in rows:
        extent = (row["shard"], row["offset"], row["length"])
        frames, times_s = sample(*extent).frames, sample(*extent).meta.get("times_s")
        middle = len(frames) // 2
        parts = [slice(0, middle), slice(middle, None)] if row["key"] in cut else [slice(None)]
        for number, part in enumerate(parts, start=1):
            places = range(len(frames))[part]
            yield ImportTracklet(
                camera=row["camera"],
                split="train",
                name=row["key"] if len(parts) == 1 else f"{row['key']}-{number}",
                frames=[(frames[place], _image(sample, extent, place)) for place in places],
                person_id=row["person_id"],
                times_s=times_s[part] if times_s else None,
                source=row["key"],
            )


def _image(sample: Callable[..., Sample], extent: tuple[int, int, int], place: int) -> Callable[[], bytes]:
    """Reads an image when it is written, so that the dataset is never in memory."""
    return lambda: sample(*extent).jpegs[place]
