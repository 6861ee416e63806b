"""The place a camera looks at: a wall with doors, windows and posters above a tiled floor."""

from __future__ import annotations

import numpy as np

from data_tools.synthetic.cameras import Camera
from data_tools.synthetic.settings import HEIGHT, WIDTH, generator

_BUILDING = ((168, 150, 122), (148, 138, 118))  # wall and floor; all places of one building are alike, not equal


def draw_background(seed: int, camera: Camera) -> np.ndarray:
    """The empty scene as the camera sees it, uint8 (HEIGHT, WIDTH, 3)."""
    from PIL import Image, ImageDraw, ImageFilter

    rng = generator(seed, "scenery", camera.number)
    wall_row = int(camera.far_row - 40)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    _draw_wall(draw, rng, generator(seed, "building"), wall_row, _vary(rng, _BUILDING[0]))
    _draw_floor(draw, rng, wall_row, _vary(rng, _BUILDING[1]))
    for _ in range(rng.integers(4, 7)):
        _draw_object(draw, rng, wall_row)
    rough = Image.fromarray(rng.integers(0, 256, (HEIGHT // 3, WIDTH // 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    texture = 1 + 0.12 * (np.asarray(rough, np.float32)[..., None] / 255 - 0.5)
    seen = camera.see(np.asarray(picture, np.float32) / 255 * texture) * camera.shade[None, :, None]
    scene = Image.fromarray((255 * seen + 0.5).astype(np.uint8))
    return np.asarray(scene.filter(ImageFilter.GaussianBlur(0.4 + camera.blur)))


def _tone(rng: np.random.Generator, low: float, high: float, colourful: float = 0.06) -> tuple[int, int, int]:
    red, green, blue = 255 * np.clip(rng.uniform(low, high) + rng.uniform(-colourful, colourful, 3), 0, 1)
    return int(red), int(green), int(blue)


def _darker(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (int(channel * share) for channel in colour)
    return red, green, blue


def _vary(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    light = rng.uniform(0.96, 1.04)
    red, green, blue = (min(255, int(channel * light * rng.uniform(0.99, 1.01))) for channel in colour)
    return red, green, blue


def _draw_wall(
    draw, rng: np.random.Generator, building: np.random.Generator, wall_row: int, base: tuple[int, int, int]
) -> None:
    draw.rectangle((0, 0, WIDTH, wall_row), fill=base)
    style = building.integers(3)
    joint = _darker(base, 0.8)
    if style == 0:  # bricks
        high, wide = int(rng.integers(8, 13)), int(rng.integers(20, 32))
        for row, y in enumerate(range(0, wall_row, high)):
            draw.line((0, y, WIDTH, y), fill=joint)
            for x in range((row % 2) * wide // 2, WIDTH, wide):
                draw.rectangle(
                    (x + 1, y + 1, x + wide - 1, y + high - 1), fill=_darker(base, float(rng.uniform(0.86, 1.0)))
                )
    elif style == 1:  # panels
        for x in range(int(rng.integers(40)), WIDTH, int(rng.integers(50, 90))):
            draw.line((x, 0, x, wall_row), fill=joint, width=3)
    else:  # painted in two bands
        draw.rectangle(
            (0, int(wall_row * rng.uniform(0.4, 0.75)), WIDTH, wall_row),
            fill=_darker(base, float(rng.uniform(0.8, 0.95))),
        )
    draw.rectangle((0, wall_row - 6, WIDTH, wall_row), fill=_darker(base, 0.55))


def _draw_floor(draw, rng: np.random.Generator, wall_row: int, base: tuple[int, int, int]) -> None:
    draw.rectangle((0, wall_row, WIDTH, HEIGHT), fill=base)
    line = _darker(base, 0.82)
    vanish_x = float(rng.uniform(0.2, 0.8)) * WIDTH
    vanish_y = wall_row - float(rng.uniform(80, 160))
    for x in range(-3 * WIDTH, 4 * WIDTH, int(rng.integers(60, 120))):
        top = vanish_x + (x - vanish_x) * (wall_row - vanish_y) / (HEIGHT - vanish_y)
        draw.line((top, wall_row, x, HEIGHT), fill=line)
    rows = wall_row + (HEIGHT - wall_row) * np.linspace(0, 1, int(rng.integers(5, 10))) ** 1.7
    for y in rows[1:]:
        draw.line((0, y, WIDTH, y), fill=line)


def _draw_object(draw, rng: np.random.Generator, wall_row: int) -> None:
    kind = rng.integers(5)
    x, wide = int(rng.integers(0, WIDTH)), int(rng.integers(24, 60))
    colour = _tone(rng, 0.15, 0.8, 0.2)
    if kind == 0:  # window
        box = (x, wall_row // 5, x + wide, int(wall_row * 0.6))
        draw.rectangle(box, fill=_tone(rng, 0.55, 0.9, 0.08), outline=_darker(colour, 0.5), width=2)
        draw.line((x + wide // 2, box[1], x + wide // 2, box[3]), fill=_darker(colour, 0.5), width=2)
    elif kind == 1:  # door
        draw.rectangle((x, wall_row // 4, x + wide, wall_row), fill=colour, outline=_darker(colour, 0.6), width=2)
        draw.ellipse((x + wide - 9, wall_row * 0.62, x + wide - 5, wall_row * 0.62 + 4), fill=_darker(colour, 0.4))
    elif kind == 2:  # poster
        box = (x, wall_row * 3 // 10, x + wide * 7 // 10, wall_row * 3 // 10 + wide * 9 // 10)
        draw.rectangle(box, fill=colour, outline=(230, 230, 225), width=2)
        draw.ellipse((x + 6, box[1] + 8, x + wide * 0.5, box[1] + wide * 0.5), fill=_tone(rng, 0.2, 0.8, 0.25))
    elif kind == 3:  # pillar
        draw.rectangle((x, 0, x + wide // 2, wall_row + 8), fill=colour)
        draw.rectangle((x + wide // 3, 0, x + wide // 2, wall_row + 8), fill=_darker(colour, 0.7))
    else:  # bench
        draw.rectangle((x, wall_row - 8, x + 2 * wide, wall_row), fill=colour)
        for leg in (x + 3, x + 2 * wide - 7):
            draw.rectangle((leg, wall_row, leg + 4, wall_row + 14), fill=_darker(colour, 0.5))
