"""The ranking of a search as one HTML file with pictures. It shows people: keep it as safe as the videos."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.atomic import whole_file
from taudl_dist.errors import UserError
from taudl_dist.evaluation.features import evenly_spaced
from taudl_dist.evaluation.page import facts_table, page, picture, section

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset, TrackletReader

_HEIGHT = 128
"""Of a picture, in pixels."""
_FRAMES = 3
"""Pictures of a tracklet at most, spread over its time."""
_STYLE = """
.hits { display: flex; flex-wrap: wrap; gap: 18px 22px; margin-bottom: 1.5em }
figure { margin: 0; width: min-content }
figure div { display: flex; gap: 3px; padding: 3px; border: 2px solid #ddd }
figure img { max-width: none }
.query figure div { border-color: #1e5ac8 }
figcaption { font-size: 12px; color: #555; white-space: pre-line; overflow-wrap: anywhere }
figcaption b { color: #222 }
"""
_FACTS = (
    "metric",
    "num_gallery",
    "other_cameras",
    "frames",
    "flip",
    "normalize",
    "dataset",
    "dataset_digest",
    "model_digest",
)


def write_search_page(path: Path, result: dict[str, Any], dataset: Dataset) -> None:
    """Writes what `search` found, a section for each query."""
    from taudl_dist.dataset import TrackletReader, read_manifest
    from taudl_dist.dataset.schema import SPLITS
    from taudl_dist.evaluation.search import rows_by_key

    keys = [key for query in result["queries"] for key in (query["query"], *(hit["key"] for hit in query["hits"]))]
    rows = rows_by_key(read_manifest(dataset, splits=SPLITS), keys)
    reader = TrackletReader(dataset)
    sections = [_query(query, rows, reader, dataset) for query in result["queries"]]
    note = "The nearest tracklets come first; nearest is not the same as the same person. Up to three images of each."
    facts = section("Facts", facts_table({name.replace("_", " "): result[name] for name in _FACTS}))
    title = f"Search in {dataset.name}"
    with whole_file(path) as temporary:
        temporary.write_text(page(title, [f"<p>{note}</p>", *sections, facts], style=_STYLE), encoding="utf-8")


def _query(query: dict[str, Any], rows: dict[str, dict[str, Any]], reader: TrackletReader, dataset: Dataset) -> str:
    from taudl_dist.evaluation.search import person_image

    name = query["query"]
    row = rows.get(name)
    shown = _frames(reader, row) if row else [_thumbnail(person_image(name, dataset), name)]
    cards = [f'<div class="query">{_card(shown, "query", _where(row) if row else "an image")}</div>']
    for hit in query["hits"]:
        title = f"{hit['rank']}. distance {hit['distance']:.4g}"
        cards.append(_card(_frames(reader, rows[hit["key"]]), title, f"{_where(hit)}\n{hit['key']}"))
    return section(name, f'<div class="hits">{"".join(cards)}</div>')


def _card(images: list[bytes], title: str, text: str) -> str:
    tags = "".join(picture(image, title) for image in images)
    return (
        f"<figure><div>{tags}</div><figcaption><b>{html.escape(title)}</b>\n{html.escape(text)}</figcaption></figure>\n"
    )


def _where(row: dict[str, Any]) -> str:
    return f"{row['camera']}, {row['start_s']:.1f} to {row['end_s']:.1f} s"


def _frames(reader: TrackletReader, row: dict[str, Any]) -> list[bytes]:
    jpegs = reader.read(row["shard"], row["offset"], row["length"])
    return [_thumbnail(jpegs[frame], row["key"]) for frame in evenly_spaced(len(jpegs), _FRAMES)]


def _thumbnail(jpeg: bytes, name: str) -> bytes:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            width = max(1, round(image.width * _HEIGHT / image.height))
            small = image.convert("RGB").resize((min(width, 3 * _HEIGHT), _HEIGHT))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"an image of {name} does not decode ({error}); run `taudl validate`") from None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
