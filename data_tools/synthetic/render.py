"""Frames of one camera and the true boxes in them.

Every crossing is drawn once, as one stride of pictures; a frame only pastes them, from far to near, on the background.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_tools.synthetic.cameras import Camera
from data_tools.synthetic.figure import CANVAS, HEAD_ROW, SCALE, draw_figure
from data_tools.synthetic.people import Person
from data_tools.synthetic.scenery import draw_background
from data_tools.synthetic.settings import FPS, HEIGHT, WIDTH, generator
from data_tools.synthetic.world import Crossing

NUM_PHASES = 8
_NUM_NOISES = 8
_NOISE_SHIFT = 16
_SHADOW = 0.4
_SOLID = 128  # coverage of 255 from which a pixel shows a person; above that of a shadow

Box = tuple[float, float, float, float]
TruthRow = tuple[int, int, Box, float]
"""Frame, position of the crossing in the camera's list, box x1 y1 x2 y2 in pixels, share of the person that is visible."""


class Walker:
    """A crossing as pictures of one stride, each drawn when it is first needed."""

    def __init__(self, person: Person, crossing: Crossing, camera: Camera) -> None:
        self.person, self.crossing, self.camera = person, crossing, camera
        self._drawn: dict[int, tuple[np.ndarray, tuple[int, int, int, int]]] = {}

    def _draw(self, step: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """The picture of one phase, premultiplied uint8 (H, W, 4), and the person's bounds on it."""
        if step not in self._drawn:
            yaw = self.camera.yaw(self.crossing.direction)
            figure = draw_figure(self.person, yaw=yaw, phase=2 * np.pi * step / NUM_PHASES)
            self._drawn[step] = _as_seen(figure, self.camera), _bounds(figure[..., 3] > 0.4)
        return self._drawn[step]

    def at(self, frame: int) -> tuple[np.ndarray, tuple[int, int], Box, float]:
        """Picture (h, w, 4), its top left corner (x, y), the person's box, and the row of the feet in a frame."""
        from PIL import Image

        done = (frame - self.crossing.start_frame + 0.5) / self.crossing.num_frames
        reach = 0.3 * self.camera.near_height
        along = done if self.crossing.direction > 0 else 1 - done
        x = -reach + along * (WIDTH + 2 * reach)
        foot_row = self.camera.foot_row(x, self.crossing.lane)
        scale = self.person.height * self.camera.person_height(foot_row) / SCALE
        cycle = (frame - self.crossing.start_frame) / FPS / self.person.step_s + self.crossing.lane
        step = int(cycle * NUM_PHASES) % NUM_PHASES
        drawn, (left, top, right, bottom) = self._draw(step)
        size = (round(CANVAS[1] * scale), round(CANVAS[0] * scale))
        image = Image.frombuffer("RGBX", CANVAS[::-1], drawn, "raw", "RGBX", 0, 1)
        picture = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        corner = (round(x - size[0] / 2), round(foot_row - (HEAD_ROW + SCALE) * scale))
        x_scale, y_scale = size[0] / CANVAS[1], size[1] / CANVAS[0]
        box = (
            corner[0] + left * x_scale, corner[1] + top * y_scale, corner[0] + right * x_scale, corner[1] + bottom * y_scale,
        )  # fmt: skip
        return picture, corner, box, foot_row


def render(
    seed: int, camera: Camera, people: dict[int, Person], crossings: list[Crossing], num_frames: int
) -> Iterator[tuple[np.ndarray, list[TruthRow]]]:
    """Yields each frame, uint8 (HEIGHT, WIDTH, 3), with the truth of the people in it; crossings in order of their start."""
    background = draw_background(seed, camera)
    rng = generator(seed, "sensor", camera.number)
    size = (HEIGHT + _NOISE_SHIFT, WIDTH + _NOISE_SHIFT, 1)
    noises = [(camera.noise * _pixel_noise(rng, size)).astype(np.int16) for _ in range(_NUM_NOISES)]
    walking: dict[int, Walker] = {}
    coming = 0
    for frame in range(num_frames):
        while coming < len(crossings) and crossings[coming].start_frame <= frame:
            walking[coming] = Walker(people[crossings[coming].person], crossings[coming], camera)
            coming += 1
        for number in [n for n, w in walking.items() if w.crossing.start_frame + w.crossing.num_frames <= frame]:
            del walking[number]
        picture = background.copy()
        rows = _paste_all(picture, walking, frame)
        noise = noises[rng.integers(_NUM_NOISES)]
        y, x = rng.integers(_NOISE_SHIFT, size=2)
        gain = (256 * camera.light(frame / FPS)).astype(np.uint16)
        noisy = ((picture * gain) >> 8).view(np.int16) + noise[y : y + HEIGHT, x : x + WIDTH]
        yield np.clip(noisy, 0, 255, out=noisy).astype(np.uint8), rows


def _pixel_noise(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    """Sensor noise: mostly of brightness, a little of colour."""
    return rng.standard_normal(size, np.float32) + 0.4 * rng.standard_normal((*size[:2], 3), np.float32)


def _paste_all(picture: np.ndarray, walking: dict[int, Walker], frame: int) -> list[TruthRow]:
    """Pastes everybody into the picture, the farthest first, and says who is visible, and how much."""
    placed = [(number, walker, *walker.at(frame)) for number, walker in walking.items()]
    placed.sort(key=lambda entry: entry[-1])
    owner = np.full((HEIGHT, WIDTH), -1, np.int32)
    seen = []
    for number, walker, figure, (x, y), box, _ in placed:
        height, width = figure.shape[:2]
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, WIDTH), min(y + height, HEIGHT)
        is_solid = figure[..., 3] >= _SOLID
        if x1 >= x2 or y1 >= y2:
            continue
        part = (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))
        gain = int(256 * walker.camera.shade[min(max(x + width // 2, 0), WIDTH - 1)])
        _paste(picture[y1:y2, x1:x2], figure[part], gain)
        owner[y1:y2, x1:x2][is_solid[part]] = number
        seen.append((number, box, (slice(y1, y2), slice(x1, x2)), int(is_solid.sum())))
    return [
        (frame, number, box, min(1.0, float((owner[area] == number).sum()) / total))
        for number, box, area, total in seen
    ]


def _paste(area: np.ndarray, figure: np.ndarray, gain: int) -> None:
    """Puts a premultiplied figure over an area, in place; `gain` is the light where it stands, of 256."""
    behind = (area.astype(np.uint16) * (255 - figure[..., 3:]).astype(np.uint16)) >> 8
    area[:] = behind + ((figure[..., :3] * np.uint16(gain)) >> 8)


def _bounds(is_person: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(is_person.any(1)), np.flatnonzero(is_person.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _as_seen(figure: np.ndarray, camera: Camera) -> np.ndarray:
    """A drawn figure with its shadow, through the camera's optics and sensor, uint8."""
    from PIL import Image, ImageFilter

    cover = figure[..., 3:]
    colour = camera.see(figure[..., :3] / np.maximum(cover, 1e-3)) * cover
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]].astype(np.float32)
    inside = 1 - ((x - CANVAS[1] / 2) / 36) ** 2 - ((y - HEAD_ROW - SCALE) / 7) ** 2
    shadow = _SHADOW * np.clip(2 * inside, 0, 1)[..., None]
    pixels = np.concatenate([colour, cover + (1 - cover) * shadow], axis=-1)
    pixels = (254 * np.clip(pixels, 0, 1)).astype(np.uint8)  # the blur of colour and cover may round apart by one
    image = Image.frombuffer("RGBX", CANVAS[::-1], pixels, "raw", "RGBX", 0, 1)
    return np.ascontiguousarray(image.filter(ImageFilter.GaussianBlur(camera.blur * SCALE / camera.near_height)))
