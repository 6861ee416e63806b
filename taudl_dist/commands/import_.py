"""`taudl import`: a re-identification benchmark as a dataset of tracklets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class ImportArgs:
    """What all benchmarks have in common."""

    name: ClassVar[str]
    root: Annotated[Positional[str], arg(metavar="ROOT")]
    """Folder of your copy of the benchmark."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Dataset folder to write."""
    identities: int = 0
    """Keep only the first so many training identities, for small machines; 0 keeps all. Query and gallery stay whole."""
    allow_mismatch: bool = False
    """Import a copy that is not complete: its counts are then reported, not refused."""
    json: bool = False
    """Print what was imported as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Cuhk03Args(ImportArgs):
    """CUHK03 from CUHK03-NP (folders), or from cuhk-03.mat of the release and the new protocol's lists beside it.

    Example: taudl import cuhk03 CUHK03-NP DATASET
    """

    name = "cuhk03"
    boxes: Literal["detected", "labelled"] = "detected"
    """People as a detector found them, or as marked by hand."""
    protocol: Literal["new", "classic"] = "new"
    """new: 767 people to train on, 700 to test on; classic: 1,367 and 100, from cuhk-03.mat."""
    split: int | None = None
    """Number of the classic split, 0 to 19; if left out, 0."""


@dataclass(frozen=True, kw_only=True)
class Market1501Args(ImportArgs):
    """Market-1501.

    Example: taudl import market1501 Market-1501-v15.09.15 DATASET
    """

    name = "market1501"


@dataclass(frozen=True, kw_only=True)
class DukeMtmcReidArgs(ImportArgs):
    """DukeMTMC-reID, withdrawn by its authors: for a copy that you hold and may use.

    Example: taudl import dukemtmcreid DukeMTMC-reID DATASET
    """

    name = "dukemtmcreid"


@dataclass(frozen=True, kw_only=True)
class MarsArgs(ImportArgs):
    """MARS, with the folder info of its authors' evaluation code beside the images.

    Example: taudl import mars MARS DATASET --duplication 0.1
    """

    name = "mars"
    seed: int = 0
    """Draws the training tracklet of each identity and camera."""
    duplication: float = 0.0
    """Share of each camera's identities with a second tracklet under another label, 0 to 0.5 (Table 6 of the paper)."""
    gallery: Literal["without-queries", "with-queries"] = "without-queries"
    """The other 9,330 test tracklets, as most code has it, or all 12,180, as the benchmark's own evaluation has it."""


@dataclass(frozen=True, kw_only=True)
class SequenceArgs(ImportArgs):
    """What the video benchmarks with ten splits have in common."""

    split: int = 0
    """Number of the split, 0 to 9; published numbers are means over all ten."""
    seed: int | None = None
    """Draws the splits where the copy has no file of splits; if left out, 0."""


@dataclass(frozen=True, kw_only=True)
class Prid2011Args(SequenceArgs):
    """PRID 2011, multi-shot, with splits_prid2011.json where you have it.

    Example: taudl import prid2011 prid2011 DATASET --split 3
    """

    name = "prid2011"


@dataclass(frozen=True, kw_only=True)
class IlidsVidArgs(SequenceArgs):
    """iLIDS-VID.

    Example: taudl import ilids-vid iLIDS-VID DATASET --split 3
    """

    name = "ilids-vid"


BENCHMARKS: dict[str, Callable[..., ImportArgs]] = {
    kind.name: kind for kind in (Cuhk03Args, Market1501Args, DukeMtmcReidArgs, MarsArgs, Prid2011Args, IlidsVidArgs)
}

_DESCRIPTION = """A re-identification benchmark as a dataset: simulated SSTT tracklets to train on, query and gallery to test on.

Example: taudl import market1501 Market-1501-v15.09.15 DATASET"""


def main(argv: Sequence[str]) -> None:
    """Imports and says what there is now."""
    from tyro.extras import subcommand_cli_from_dict

    args = subcommand_cli_from_dict(BENCHMARKS, args=list(argv), prog="taudl import", description=_DESCRIPTION)
    from data_tools.benchmarks import importer
    from taudl_dist.dataset import open_dataset

    options = {field.name: getattr(args, field.name) for field in fields(args)}
    root, out, as_json = (options.pop(key) for key in ("root", "out", "json"))
    counts = importer(args.name)(root, out, **options)
    dataset = open_dataset(out)
    splits = dataset.info["splits"]
    if as_json:
        print(json.dumps({"out": out, "digest": dataset.digest, "splits": splits, "counts": counts}))
        return
    for split, held in splits.items():
        print(f"{split:8} {held['tracklets']:7,} tracklets {held['frames']:8,} images")
    print(f"{out}: {len(dataset.cameras)} cameras, digest {dataset.digest[:12]}")
