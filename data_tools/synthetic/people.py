"""What people look like: body, clothes, hair and things they carry, drawn from the seed and the person's number.

Colours come from short palettes that many people share, so that colour alone does not tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.synthetic.settings import generator

Colour = tuple[float, float, float]

TOP_COLOURS: tuple[Colour, ...] = (
    (0.16, 0.20, 0.36), (0.42, 0.42, 0.44), (0.13, 0.13, 0.14), (0.50, 0.18, 0.17), (0.34, 0.38, 0.22), (0.76, 0.74, 0.70),
)  # fmt: skip
TRIM_COLOURS: tuple[Colour, ...] = (*TOP_COLOURS, (0.80, 0.62, 0.18), (0.20, 0.45, 0.62))
BOTTOM_COLOURS: tuple[Colour, ...] = ((0.18, 0.23, 0.34), (0.12, 0.12, 0.13), (0.52, 0.45, 0.33), (0.36, 0.36, 0.38))
HAIR_COLOURS: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.30, 0.19, 0.11), (0.62, 0.50, 0.30), (0.55, 0.54, 0.53))
SKIN_COLOURS: tuple[Colour, ...] = ((0.86, 0.68, 0.56), (0.70, 0.51, 0.39), (0.45, 0.30, 0.22))
BAG_COLOURS: tuple[Colour, ...] = ((0.15, 0.14, 0.14), (0.45, 0.28, 0.15), (0.55, 0.20, 0.18), (0.25, 0.38, 0.40))

TOP_PATTERNS = (
    "plain", "stripes", "pinstripes", "checks", "gradient", "block", "dots", "logo", "diagonal", "open", "band",
)  # fmt: skip
BOTTOM_PATTERNS = ("plain", "plain", "plain", "seam", "checks", "block")


@dataclass(frozen=True, kw_only=True)
class Garment:
    """A piece of clothing: a pattern of two colours; lengths are shares of the person's height."""

    pattern: str
    colours: tuple[Colour, Colour]
    period: float
    top: float
    hem: float


@dataclass(frozen=True, kw_only=True)
class Person:
    """The looks of one person; lengths are shares of the person's height, `height` one of the common height."""

    number: int
    height: float
    shoulder: float
    depth: float
    head: float
    stride: float
    step_s: float
    top: Garment
    sleeve: str
    bottom: Garment
    cut: str
    skin: Colour
    hair: Colour
    hair_style: str
    shoes: Colour
    bag: str
    bag_colour: Colour


def draw_person(seed: int, number: int) -> Person:
    """The person with this number; people do not depend on how many others there are."""
    rng = generator(seed, "person", number)

    def pick(options):
        return options[rng.integers(len(options))]

    build = rng.uniform(0.85, 1.2)
    cut = pick(("trousers", "trousers", "trousers", "shorts", "skirt"))
    return Person(
        number=number,
        height=float(rng.uniform(0.88, 1.1)),
        shoulder=float(0.118 * build * rng.uniform(0.95, 1.08)),
        depth=float(0.074 * build),
        head=float(rng.uniform(0.92, 1.1)),
        stride=float(rng.uniform(0.36, 0.52)),
        step_s=float(rng.uniform(0.95, 1.25)),
        top=_draw_garment(rng, TOP_COLOURS, TRIM_COLOURS, TOP_PATTERNS, top=0.16, hem=float(rng.uniform(0.47, 0.60))),
        sleeve=pick(("long", "long", "short", "trim")),
        bottom=_draw_garment(
            rng,
            BOTTOM_COLOURS,
            BOTTOM_COLOURS,
            BOTTOM_PATTERNS,
            top=0.46,
            hem=_hem(cut, float(rng.uniform(-0.04, 0.04))),
        ),
        cut=cut,
        skin=pick(SKIN_COLOURS),
        hair=pick(HAIR_COLOURS),
        hair_style=pick(("short", "short", "long", "bun", "cap", "bald")),
        shoes=pick(((0.1, 0.1, 0.1), (0.8, 0.8, 0.78), (0.38, 0.24, 0.15))),
        bag=pick(("none", "none", "backpack", "left", "right")),
        bag_colour=pick(BAG_COLOURS),
    )


def _draw_garment(rng, bases, trims, patterns, *, top: float, hem: float) -> Garment:
    base = bases[rng.integers(len(bases))]
    others = [trim for trim in trims if trim != base]
    return Garment(
        pattern=patterns[rng.integers(len(patterns))],
        colours=(base, others[rng.integers(len(others))]),
        period=float(np.exp(rng.uniform(np.log(0.05), np.log(0.11)))),
        top=top,
        hem=hem,
    )


def _hem(cut: str, variation: float) -> float:
    return {"trousers": 0.95, "shorts": 0.70 + variation, "skirt": 0.72 + variation}[cut]
