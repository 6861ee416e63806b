"""A picture to judge tracks by: the video's fullest frame with its boxes and ids, and the paths of all tracks over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.atomic import whole_file
from data_tools.video import iter_frames

_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#00a0a0",
    "#f032e6",
    "#9a6324",
    "#808000",
    "#000075",
)


def draw_tracks(video: str | Path, tracks: pa.Table, path: str | Path) -> None:
    """Writes the picture of one camera's tracks as JPEG; a path follows the middle of the boxes' lower edge."""
    from PIL import Image, ImageDraw

    frame = tracks["frame"].to_numpy()
    numbers, counts = np.unique(frame, return_counts=True)
    fullest = int(numbers[np.argmax(counts)]) if len(numbers) else 0
    _, picture = next(iter(iter_frames(video, wanted=np.array([fullest]))))
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    box = np.stack([tracks[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    track = tracks["track"].to_numpy()
    for number in np.unique(track):
        rows = np.flatnonzero(track == number)
        rows = rows[np.argsort(frame[rows])]
        colour = _COLOURS[int(number) % len(_COLOURS)]
        feet = [((x1 + x2) / 2, y2 - 1) for x1, _, x2, y2 in box[rows].tolist()]
        draw.line(feet, fill=colour, width=2)
        _draw_label(draw, feet[-1], f"{number}", colour)
        for x1, y1, x2, y2 in box[rows[frame[rows] == fullest]].tolist():
            draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=3)
            _draw_label(draw, (x1, y1), f"{number}", colour)
    with whole_file(Path(path)) as temporary:
        image.save(temporary, format="JPEG", quality=88)


def _draw_label(draw, place: tuple[float, float], text: str, colour: str) -> None:
    _, _, right, bottom = draw.textbbox((0, 0), text, font_size=14)
    width, height = draw.im.size
    x = min(max(place[0], 0), width - right - 4)
    y = min(max(place[1] - bottom - 2, 0), height - bottom - 4)
    draw.rectangle((x, y, x + right + 4, y + bottom + 2), fill=colour)
    draw.text((x + 2, y), text, fill="white", font_size=14)
