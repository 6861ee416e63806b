"""Random draws of a step, counter-based: a function of (key, step, slot), never of worker, pipeline or order of evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taudl_dist.config import AugmentConfig

TRIES = 10
"""Crops tried before the whole image is taken."""
_PURPOSES = {"frames": 0, "augment": 1}


def uniforms(
    shape: tuple[int, int],
    *,
    key: NDArray[np.uint64],
    step: int,
    purpose: Literal["frames", "augment"],
    first: int = 0,
) -> NDArray[np.float64]:
    """Numbers in [0, 1), shape (slots, draws per slot), of the slots from `first` on; a slot's do not depend on how many are asked for.

    Philox with the 128-bit key and the counter (block, step, purpose); raw integers, because their stream never changes
    with the version of numpy.
    """
    block, skipped = divmod(first * shape[1], 4)  # a block of the counter gives four numbers
    generator = np.random.Philox(key=key, counter=[block, 0, step, _PURPOSES[purpose]])
    raw = generator.random_raw(skipped + shape[0] * shape[1])[skipped:].reshape(shape)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose_frames(num_frames: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """F frames of each tracklet, ascending: (m,) frame counts and (m, F) numbers in [0, 1) -> (m, F).

    Without replacement where a tracklet has F frames. A shorter one shows every frame F // num_frames times, and F % num_frames of
    its frames, drawn without replacement, once more (Floyd's algorithm).
    """
    wanted = draws.shape[1]
    drawn = np.where(num_frames > wanted, wanted, wanted % num_frames)
    frames = np.empty(draws.shape, np.int64)
    for column in range(wanted):
        last = num_frames - drawn + column
        candidate = np.floor(draws[:, column] * (last + 1)).astype(np.int64)
        taken = (frames[:, :column] == candidate[:, None]).any(axis=1)
        filler = (column - drawn) % num_frames
        frames[:, column] = np.where(column < drawn, np.where(taken, last, candidate), filler)
    return np.sort(frames, axis=1)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Augmentation of N images, before their sizes are known."""

    tries: NDArray[np.float64]
    """(N, 4, TRIES): of each crop the share of the image's area, height / width, and where among its possible columns and rows it
    starts, in [0, 1)."""
    flip: NDArray[np.bool_]
    """(N,) mirror left and right."""

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, part: slice) -> Draws:
        return Draws(tries=self.tries[part], flip=self.flip[part])


def concatenate(parts: Sequence[Draws]) -> Draws:
    """The draws of several runs of images as one."""
    return Draws(
        tries=np.concatenate([part.tries for part in parts]), flip=np.concatenate([part.flip for part in parts])
    )


def draw_augmentation(
    num_images: int, config: AugmentConfig, *, key: NDArray[np.uint64], step: int, first: int = 0
) -> Draws:
    """The draws of the images `first`, `first` + 1, ... of a step."""
    u = uniforms((num_images, 4 * TRIES + 1), first=first, key=key, step=step, purpose="augment")
    tries = u[:, :-1].reshape(num_images, 4, TRIES)
    low = np.array([config.min_area, config.min_aspect, 0, 0])
    high = np.array([1, config.max_aspect, 1, 1])
    return Draws(tries=low[:, None] + (high - low)[:, None] * tries, flip=u[:, -1] < config.flip)


def crop_windows(draws: Draws, widths: NDArray[np.int64], heights: NDArray[np.int64]) -> NDArray[np.float32]:
    """Crops of N images of these sizes in pixels: (N, 4) x, y, width, height as shares of the image, on whole pixels.

    The first of the tries whose rectangle of area share A and aspect R fits; the whole image if none does (the released code's
    RandomSizedRectCrop).
    """
    size = np.stack([widths, heights]).astype(np.float64)[:, :, None]
    area, aspect, *start = np.moveaxis(draws.tries, 1, 0)
    target = area * size.prod(axis=0)
    crop = np.rint(np.sqrt([target / aspect, target * aspect]))
    fits = np.all((crop >= 1) & (crop <= size), axis=0)
    first = np.argmax(fits, axis=1)
    offset = np.floor(np.stack(start) * (size - crop + 1))
    windows = (np.concatenate([offset, crop]) / np.tile(size, (2, 1, 1)))[:, np.arange(len(first)), first].T
    windows[~fits[np.arange(len(first)), first]] = (0, 0, 1, 1)
    return windows.astype(np.float32)
