"""`taudl search`: the tracklets most like a given one, or like an image of a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class SearchArgs:
    """The tracklets nearest to a given one, or to an image of a person, over all cameras. Needs no labels.

    The page of --out shows people: keep it as safe as the videos.

    Example: taudl search --data DATASET --model RUN --query person.jpg --top 20 --out result.html
    """

    data: str
    """Dataset folder, or its s3:// or gs:// URI."""
    query: tuple[str, ...]
    """Keys of tracklets (column `key` of tracklets.parquet or of a file of `taudl embed`), or images cut out around one person."""
    model: str = ""
    """A run folder, a folder with model.safetensors, or that file; not needed to search by key in --features."""
    features: str = ""
    """A file of `taudl embed` of this dataset and model; without it the tracklets are embedded first, each time."""
    top: int = 10
    """Tracklets to find."""
    other_cameras: bool = False
    """Leave out what the query's own camera saw."""
    frames: int = 0
    """Evenly spaced frames averaged per tracklet; 0 takes all. A file of --features has its own number, flip and normalize."""
    flip: bool = False
    """Average over each image and its mirror image."""
    normalize: bool = False
    """Divide features by their L2 norm."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between features."""
    out: str = ""
    """Write the ranking with pictures to this HTML file."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(argv: Sequence[str]) -> None:
    """Searches, prints, writes the page."""
    args = parse(SearchArgs, argv, command="search")
    _check(args)
    from taudl_dist.commands.output import check_output
    from taudl_dist.dataset import open_dataset
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.search import Search, search, table
    from taudl_dist.evaluation.search_page import write_search_page
    from taudl_dist.progress import log

    out: Path | None = check_output(args.out, overwrite=args.overwrite) if args.out else None
    dataset = open_dataset(args.data)
    settings = Search(
        dataset=dataset,
        model=args.model,
        features=args.features,
        top=args.top,
        frames=args.frames,
        flip=args.flip,
        normalize=args.normalize,
        metric=args.metric,
        other_cameras=args.other_cameras,
        device=best_device(),
    )
    result = search(args.query, settings)
    if out:
        write_search_page(out, result, dataset)
        log(f"page: {out}")
    print(json.dumps(result) if args.json else table(result))


def _check(args: SearchArgs) -> None:
    from taudl_dist.errors import UsageError

    if not args.query:
        raise UsageError("--query names nothing; expected a tracklet's key or an image")
    if args.overwrite and not args.out:
        raise UsageError("--overwrite has no meaning without --out")
