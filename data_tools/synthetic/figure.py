"""Draws a walking person, seen from any side, as a picture with transparency.

A body is a handful of tubes. A point on a tube's picture has an angle around the body, so cloth, faces and bags turn with the
person: x = left * cos(yaw) + forward * sin(yaw). Yaw 0 faces the camera, 90 degrees walks to the right of the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_tools.synthetic.clothes import cloth_colour
from data_tools.synthetic.people import Garment, Person

CANVAS = (176, 112)
"""Height and width in pixels of a drawn figure."""
SCALE = 160
"""Pixels of a person's height on the canvas; the head's top is at row `HEAD_ROW`."""
HEAD_ROW = 6

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Angle around the body and height (y down from the head) -> colour (..., 3)."""


class Figure:
    """One drawing: premultiplied colour and coverage, painted from far to near."""

    def __init__(self, yaw: float) -> None:
        self.yaw = yaw
        self.pixels = np.zeros((*CANVAS, 4), np.float32)
        self._strokes: list[tuple[float, Callable[[], None]]] = []

    def tube(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: tuple[float, ...],
        paint: Paint,
        *,
        order: float,
        flat: bool = False,
    ) -> None:
        """A limb or a trunk between two body points (left, forward, y); `radii` at equal steps along it; ends round or flat."""
        self._strokes.append((order, lambda: self._stroke(start, end, radii, paint, flat)))

    def finish(self) -> np.ndarray:
        """The picture (H, W, 4), premultiplied, 0 to 1."""
        for _, draw in sorted(self._strokes, key=lambda stroke: stroke[0]):
            draw()
        return self.pixels

    def depth(self, point: np.ndarray) -> float:
        """How far a body point is in front of the body's axis, towards the camera."""
        return float(point[1] * np.cos(self.yaw) - point[0] * np.sin(self.yaw))

    def _project(self, point: np.ndarray) -> np.ndarray:
        x = point[0] * np.cos(self.yaw) + point[1] * np.sin(self.yaw)
        return np.array([CANVAS[1] / 2 + SCALE * x, HEAD_ROW + SCALE * point[2]], np.float32)

    def _stroke(self, start: np.ndarray, end: np.ndarray, radii: tuple[float, ...], paint: Paint, flat: bool) -> None:
        from_xy, to_xy, reach = self._project(start), self._project(end), SCALE * max(radii) + 1
        low = np.maximum(np.floor(np.minimum(from_xy, to_xy) - reach), 0).astype(int)
        high = np.minimum(np.ceil(np.maximum(from_xy, to_xy) + reach) + 1, CANVAS[::-1]).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0], dtype=np.float32), np.arange(low[1], high[1], dtype=np.float32))
        axis = to_xy - from_xy
        length = max(float(np.hypot(*axis)), 1e-3)
        along = ((x - from_xy[0]) * axis[0] + (y - from_xy[1]) * axis[1]) / length**2
        across = ((x - from_xy[0]) * axis[1] - (y - from_xy[1]) * axis[0]) / length
        radius = SCALE * np.interp(np.clip(along, 0, 1), np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        beyond = (np.abs(along - 0.5) - 0.5) * length
        distance = np.abs(across) if flat else np.hypot(across, np.maximum(beyond, 0))
        cover = np.clip(radius - distance + 0.5, 0, 1)
        if flat:
            cover *= np.clip(0.5 - beyond, 0, 1)
        sine = np.clip(across / np.maximum(radius, 1e-3), -0.999, 0.999)
        facing = np.arcsin(sine)
        angle = (facing - self.yaw + np.pi) % (2 * np.pi) - np.pi
        light = 0.72 + 0.28 * np.cos(facing - 0.4)
        colour = paint(angle, (y - HEAD_ROW) / SCALE) * light[..., None]
        self._blend(low, high, colour, cover)

    def _blend(self, low: np.ndarray, high: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
        area = self.pixels[low[1] : high[1], low[0] : high[0]]
        area *= (1 - cover)[..., None]
        area[..., :3] += colour * cover[..., None]
        area[..., 3] += cover


def draw_figure(person: Person, *, yaw: float, phase: float) -> np.ndarray:
    """A person as premultiplied RGBA (H, W, 4) float32 in 0 to 1.

    Args:
        yaw: Where the person faces, radians; 0 is towards the camera.
        phase: Of the stride, radians.
    """
    figure = Figure(yaw)
    for side in (1, -1):
        _leg(figure, person, side, phase)
        _arm(figure, person, side, phase)
    _trunk(figure, person)
    _head(figure, person)
    _bag(figure, person)
    return figure.finish()


def _plain(colour) -> Paint:
    value = np.asarray(colour, np.float32)
    return lambda angle, _: np.broadcast_to(value, (*angle.shape, 3))


def _cloth(garment: Garment) -> Paint:
    return lambda angle, y: cloth_colour(garment, angle, y)


def _point(left: float, forward: float, y: float) -> np.ndarray:
    return np.array([left, forward, y])


def _leg(figure: Figure, person: Person, side: int, phase: float) -> None:
    swing = person.stride * np.sin(phase) * side
    bend = 0.75 * max(0.0, np.cos(phase) * side)
    hip = _point(side * 0.4 * person.shoulder, 0, 0.49)
    knee = hip + 0.235 * _point(0, np.sin(swing), np.cos(swing))
    ankle = knee + 0.225 * _point(0, np.sin(swing - bend), np.cos(swing - bend))
    toe = ankle + _point(side * 0.01, 0.075, 0.02)
    wide = person.depth / 0.074
    order = -10 + figure.depth(hip + knee + ankle)
    cloth, hem = _cloth(person.bottom), person.bottom.hem
    skin = _plain(person.skin)

    def trouser(angle: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where((y < hem)[..., None], cloth(angle, y), skin(angle, y))

    shin = cloth if person.cut == "trousers" else skin
    figure.tube(ankle, toe, (0.024, 0.02), _plain(person.shoes), order=order)
    figure.tube(knee, ankle, (0.036 * wide, 0.034 * wide, 0.024), shin, order=order + 0.001)
    figure.tube(hip, knee, (0.056 * wide, 0.038 * wide), trouser, order=order + 0.002)


def _arm(figure: Figure, person: Person, side: int, phase: float) -> None:
    swing = -0.8 * person.stride * np.sin(phase) * side
    shoulder = _point(side * 0.93 * person.shoulder, 0, 0.195)
    elbow = shoulder + 0.15 * _point(side * 0.12, np.sin(swing), np.cos(swing))
    hand = elbow + 0.14 * _point(side * 0.02, np.sin(swing + 0.35), np.cos(swing + 0.35))
    order = 2 * figure.depth(shoulder)
    skin = _plain(person.skin)
    upper = _plain(person.top.colours[1]) if person.sleeve == "trim" else _cloth(person.top)
    lower = skin if person.sleeve == "short" else upper
    figure.tube(elbow + 0.9 * (hand - elbow), hand, (0.02,), skin, order=order)
    figure.tube(elbow, elbow + 0.88 * (hand - elbow), (0.027, 0.021), lower, order=order + 0.001)
    figure.tube(shoulder, elbow, (0.036, 0.029), upper, order=order + 0.002)


def _trunk(figure: Figure, person: Person) -> None:
    def wide(share: float) -> float:
        """Half the width of the trunk's ellipse as it is seen, with its lateral axis shortened to `share`."""
        return float(np.hypot(share * person.shoulder * np.cos(figure.yaw), person.depth * np.sin(figure.yaw)))

    widths = (wide(0.35), wide(0.95), wide(0.92), wide(0.86), wide(0.8), wide(0.8), wide(0.84), wide(0.88))
    figure.tube(_point(0, 0, 0.12), _point(0, 0, 0.17), (0.03,), _plain(person.skin), order=-0.02)
    figure.tube(_point(0, 0, 0.155), _point(0, 0, person.top.hem), widths, _cloth(person.top), order=0, flat=True)
    if person.cut == "skirt":
        skirt = (wide(0.8), wide(1.0), wide(1.15))
        figure.tube(
            _point(0, 0, 0.45), _point(0, 0, person.bottom.hem), skirt, _cloth(person.bottom), order=-0.5, flat=True
        )


def _head(figure: Figure, person: Person) -> None:
    radius = 0.05 * person.head
    hairline = {"bald": 0.0, "cap": 0.06}.get(person.hair_style, 0.045)
    skin, hair = np.asarray(person.skin, np.float32), np.asarray(person.hair, np.float32)
    cover = np.asarray(person.top.colours[1], np.float32) if person.hair_style == "cap" else hair

    def paint(angle: np.ndarray, y: np.ndarray) -> np.ndarray:
        is_face = (np.abs(angle) < 1.25) & (y > hairline) | (person.hair_style == "bald") | (y > 0.115)
        return np.where(is_face[..., None], skin, np.where((y < hairline)[..., None], cover, hair))

    centre = 0.012
    figure.tube(_point(0, centre, 0.055), _point(0, centre, 0.095), (radius, 0.9 * radius), paint, order=0.03)
    if person.hair_style == "long":
        figure.tube(
            _point(0, -0.03, 0.06), _point(0, -0.05, 0.22), (0.04, 0.05, 0.03), _plain(hair), order=0.4 * figure.depth(_point(0, -1, 0))
        )  # fmt: skip
    if person.hair_style == "bun":
        figure.tube(
            _point(0, -0.06, 0.045),
            _point(0, -0.065, 0.05),
            (0.026,),
            _plain(hair),
            order=figure.depth(_point(0, -1, 0)),
        )
    if person.hair_style == "cap":
        figure.tube(_point(0, 0.04, 0.055), _point(0, 0.085, 0.06), (0.012,), _plain(cover), order=0.04)


def _bag(figure: Figure, person: Person) -> None:
    """A backpack, or a bag on one hip with its strap; on the far side the body hides it."""
    colour = _plain(person.bag_colour)
    if person.bag == "backpack":
        back = -1.25 * person.depth
        wide = float(np.hypot(0.085 * np.cos(figure.yaw), 0.05 * np.sin(figure.yaw)))
        order = 0.5 * figure.depth(_point(0, -1, 0))
        figure.tube(_point(0, back, 0.21), _point(0, back, 0.39), (0.8 * wide, wide, wide), colour, order=order)
        for side in (1, -1):
            shoulder = _point(side * 0.55 * person.shoulder, 0.7 * person.depth, 0.165)
            strap_order = 0.01 if figure.depth(_point(0, 1, 0)) > 0 else -0.01
            figure.tube(shoulder, shoulder + _point(0, 0, 0.16), (0.011,), colour, order=strap_order)
    if person.bag in ("left", "right"):
        side = 1 if person.bag == "left" else -1
        hip = _point(side * 1.12 * person.shoulder, -0.01, 0.5)
        wide = float(np.hypot(0.03 * np.cos(figure.yaw), 0.075 * np.sin(figure.yaw)))
        order = 3 * figure.depth(hip)
        figure.tube(hip + _point(0, 0, -0.03), hip + _point(0, 0, 0.06), (wide, wide), colour, order=order, flat=True)
        figure.tube(_point(side * 0.6 * person.shoulder, 0, 0.17), hip, (0.009,), colour, order=order - 0.001)
