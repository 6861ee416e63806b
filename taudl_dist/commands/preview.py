"""`taudl preview`: contact sheets of a dataset, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from taudl_dist.commands import parse
from taudl_dist.commands.dataset_argument import Positional, dataset_path


@dataclass(frozen=True, kw_only=True)
class PreviewArgs:
    """Writes one HTML file with contact sheets per camera and histograms. It shows people: keep it as safe as the videos.

    Example: taudl preview dataset --out preview.html
    """

    dataset: Annotated[str, Positional] = ""
    """Dataset folder, or its s3:// or gs:// URI."""
    data: str = ""
    """The dataset folder, as a flag."""
    out: str = "preview.html"
    """HTML file to write; an existing one is replaced."""
    tracklets: int = 24
    """Tracklets shown per camera and split, at most."""


def main(argv: Sequence[str]) -> None:
    """Runs the command and prints its result."""
    args = parse(PreviewArgs, argv, command="preview")
    path = dataset_path(args.dataset, args.data)
    from data_tools.preview import write_preview

    print(write_preview(path, args.out, tracklets=args.tracklets))
