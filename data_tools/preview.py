"""A dataset to look at: one HTML file with contact sheets per camera and histograms of lengths and sizes.

The tracklets shown are a function of the dataset, and their number is bounded. The file shows people: keep it as the data.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.atomic import whole_file
from data_tools.info import dataset_info, info_table
from taudl_dist.dataset import Dataset, Sample, TrackletReader, open_dataset, read_manifest
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import progress

_THUMB = (48, 96)  # width, height in pixels
_CAPTION = 96
_COLUMNS = 8
_MOST_CAMERAS = 50

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:24px;max-width:1200px}}pre{{background:#f4f4f4;padding:12px;overflow:auto}}
img{{max-width:100%;display:block}}details{{margin:12px 0}}summary{{font-weight:bold;cursor:pointer}}</style>
<h1>{title}</h1><pre>{table}</pre><img alt="histograms of tracklets" src="data:image/png;base64,{histograms}">
<p>A row is a tracklet: label, images, seconds. {note}</p>
{sheets}
</html>
"""


def write_preview(path: str | Path, out: str | Path, *, tracklets: int = 24) -> Path:
    """Writes the page; `tracklets` rows per camera and split at most, spread over the split's tracklets."""
    if tracklets < 1:
        raise UsageError(f"--tracklets {tracklets}: expected at least 1")
    dataset, out = open_dataset(path), Path(out)
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"{out}: expected the name of an HTML file in a folder that exists")
    manifest = read_manifest(dataset, splits=SPLITS)
    reader = TrackletReader(dataset)
    sizes: list[tuple[int, int]] = []
    sheets = []
    for camera in progress(dataset.cameras[:_MOST_CAMERAS], "preview", unit="camera"):
        of_camera = manifest.filter(pc.equal(manifest["camera"], camera))
        for split in SPLITS:
            rows = of_camera.filter(pc.equal(of_camera["split"], split))
            if rows.num_rows:
                samples = _pick(reader, rows, tracklets)
                sizes += [size for _, sample in samples for size in _sizes(sample)]
                sheets.append(_section(camera, split, rows.num_rows, contact_sheet(samples)))
    hidden = len(dataset.cameras) - _MOST_CAMERAS
    page = _PAGE.format(
        title=f"taudl preview: {html.escape(dataset.name)}",
        table=html.escape(info_table(dataset_info(dataset, manifest))),
        histograms=base64.b64encode(_histograms(dataset, manifest, sizes)).decode(),
        note=f"Only the first {_MOST_CAMERAS} cameras; {hidden} more are not shown." if hidden > 0 else "",
        sheets="\n".join(sheets),
    )
    with whole_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def _pick(reader: TrackletReader, rows: pa.Table, most: int) -> list[tuple[dict[str, Any], Sample]]:
    """Manifest row and content of `most` tracklets, evenly spread over the rows."""
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows)).round().astype(np.int64))
    found = rows.take(pa.array(chosen)).to_pylist()
    return [(row, reader.read_sample(row["shard"], row["offset"], row["length"])) for row in found]


def _sizes(sample: Sample) -> list[tuple[int, int]]:
    """Width and height in the video of a tracklet's boxes, or of its images where no boxes are known."""
    if boxes := sample.meta.get("boxes"):
        try:
            return [(int(x2 - x1), int(y2 - y1)) for x1, y1, x2, y2 in boxes]
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"tracklet {sample.key}: its boxes {str(boxes)[:40]} are damaged; make the dataset again"
            ) from None
    return [_image(sample, at).size for at in range(len(sample.jpegs))]


def contact_sheet(samples: list[tuple[dict[str, Any], Sample]]) -> bytes:
    """A JPEG with one row of thumbnails per tracklet."""
    from PIL import Image, ImageDraw

    columns = max(min(_COLUMNS, len(sample.jpegs)) for _, sample in samples)
    sheet = Image.new("RGB", (_CAPTION + columns * (_THUMB[0] + 2), len(samples) * (_THUMB[1] + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (row, sample) in enumerate(samples):
        top = number * (_THUMB[1] + 2)
        pen.multiline_text((4, top + 4), _caption(row), fill="black")
        shown = np.linspace(0, len(sample.jpegs) - 1, min(columns, len(sample.jpegs))).round().astype(int)
        for column, at in enumerate(shown.tolist()):
            thumb = _image(sample, at)
            thumb.thumbnail(_THUMB)
            left = _CAPTION + column * (_THUMB[0] + 2) + (_THUMB[0] - thumb.width) // 2
            sheet.paste(thumb, (left, top + (_THUMB[1] - thumb.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _image(sample: Sample, at: int) -> Any:
    """The decoded image."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(sample.jpegs[at]), formats=["JPEG"]).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {sample.frames[at]} of tracklet {sample.key} does not decode ({error}); run `taudl validate`"
        ) from None


def _caption(row: dict[str, Any]) -> str:
    who = f"label {row['label']}" if row["split"] == "train" else f"person {row['person_id']}"
    return f"{who}\n{row['num_frames']} images\n{row['start_s']:.1f} s to\n{row['end_s']:.1f} s"


def _section(camera: str, split: str, count: int, sheet: bytes) -> str:
    image = base64.b64encode(sheet).decode()
    what = html.escape(f"{camera}, {split}: {count} tracklets")
    return f'<details open><summary>{what}</summary><img alt="{what}" src="data:image/jpeg;base64,{image}"></details>'


def _histograms(dataset: Dataset, manifest: pa.Table, sizes: list[tuple[int, int]]) -> bytes:
    """Images and seconds of all tracklets, heights of the boxes shown, tracklets over time: a PNG."""
    from matplotlib.figure import Figure

    start, end = manifest["start_s"].to_numpy(), manifest["end_s"].to_numpy()
    figure = Figure(figsize=(12, 2.6), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, values, label in zip(
        panels,
        (manifest["num_frames"].to_numpy(), end - start, np.array([height for _, height in sizes]), start),
        ("images per tracklet", "seconds per tracklet", "box height (pixels, those shown)", "begin of tracklet (s)"),
    ):
        axes.hist(
            np.round(values, 3), bins=24, color="#4477aa"
        )  # equal but for rounding errors leaves no room for bins
        axes.set_xlabel(label)
    panels[0].set_ylabel(f"tracklets ({len(dataset.cameras)} cameras)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()
