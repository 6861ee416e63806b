from __future__ import annotations

import math

import numpy as np
import pytest

from taudl_dist.batches.draws import TRIES, choose_frames, concatenate, crop_windows, draw_augmentation, uniforms
from taudl_dist.config import AugmentConfig

KEY = np.array([123456789, 2**63 + 5], np.uint64)


def augmentation(num_images=400, step=3, **settings):
    return draw_augmentation(num_images, AugmentConfig(**settings), key=KEY, step=step)


def test_a_slot_has_the_same_numbers_in_batches_of_any_size():
    small, large = (uniforms((n, 7), key=KEY, step=5, purpose="frames") for n in (3, 50))
    assert (small == large[:3]).all()
    assert (augmentation(2).tries == augmentation(9).tries[:2]).all()


@pytest.mark.parametrize("width", [1, 3, 4, 41])
@pytest.mark.parametrize("first", [0, 1, 2, 5, 49])
def test_slots_can_be_drawn_apart(first, width):
    whole = uniforms((50, width), key=KEY, step=5, purpose="augment")
    assert (uniforms((50 - first, width), first=first, key=KEY, step=5, purpose="augment") == whole[first:]).all()


def test_key_step_and_purpose_each_change_the_numbers():
    kinds = [
        (KEY, 5, "frames"),
        (KEY, 6, "frames"),
        (KEY, 5, "augment"),
        (np.array([1, 2], np.uint64), 5, "frames"),
        (KEY, 10**6, "frames"),
    ]
    blocks = [uniforms((50, 4), key=key, step=step, purpose=purpose) for key, step, purpose in kinds]
    assert len(np.unique(np.stack(blocks))) == 5 * 200
    assert np.stack(blocks).min() >= 0 and np.stack(blocks).max() < 1


@pytest.mark.parametrize("wanted", [1, 2, 4, 16])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 7, 16, 40])
def test_frames_are_distinct_or_evenly_repeated(num_frames, wanted):
    frames = choose_frames(np.full(200, num_frames), uniforms((200, wanted), key=KEY, step=1, purpose="frames"))
    assert (np.diff(frames, axis=1) >= 0).all()
    counts = np.stack([np.bincount(row, minlength=num_frames) for row in frames])
    assert counts.shape[1] == num_frames and (counts.sum(axis=1) == wanted).all()
    assert set(np.unique(counts)) <= {wanted // num_frames, -(-wanted // num_frames)}


def test_every_set_of_frames_is_equally_likely():
    draws = uniforms((30_000, 3), key=KEY, step=2, purpose="frames")
    frames = choose_frames(np.full(30_000, 6), draws)
    counts = np.unique(frames @ [100, 10, 1], return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    assert abs(counts - 1500).max() < 6 * math.sqrt(1500)


def test_tracklets_of_different_lengths_are_independent():
    draws = uniforms((4, 4), key=KEY, step=2, purpose="frames")
    lengths = np.array([1, 3, 4, 30])
    together = choose_frames(lengths, draws)
    assert all((choose_frames(lengths[i : i + 1], draws[i : i + 1]) == together[i]).all() for i in range(4))


def slow_window(draws, image, width, height):
    """One try after the other, as the released code does."""
    for attempt in range(TRIES):
        area, aspect, left, top = draws.tries[image, :, attempt]
        target = area * width * height
        crop_width, crop_height = round(math.sqrt(target / aspect)), round(math.sqrt(target * aspect))
        if 1 <= crop_width <= width and 1 <= crop_height <= height:
            x = math.floor(left * (width - crop_width + 1))
            y = math.floor(top * (height - crop_height + 1))
            return x / width, y / height, crop_width / width, crop_height / height
    return 0, 0, 1, 1


@pytest.mark.parametrize("low", [64, 1, 300])
def test_windows_equal_the_obvious_implementation(low):
    draws = augmentation()
    rng = np.random.default_rng(0)
    widths, heights = rng.integers(low, 2 * low + 1, 400), rng.integers(low, 4 * low + 1, 400)
    expected = [slow_window(draws, i, int(widths[i]), int(heights[i])) for i in range(400)]
    windows = crop_windows(draws, widths, heights)
    assert windows.dtype == np.float32 and windows.shape == (400, 4)
    assert (windows == np.array(expected, np.float32)).all()


def test_windows_lie_inside_the_image_on_whole_pixels():
    widths, heights = np.full(400, 64), np.full(400, 128)
    pixels = crop_windows(augmentation(), widths, heights) * np.stack([widths, heights, widths, heights], axis=1)
    assert (pixels == pixels.astype(int)).all()
    assert (pixels[:, :2] + pixels[:, 2:] <= [64, 128]).all()
    area, aspect = pixels[:, 2] * pixels[:, 3] / (64 * 128), pixels[:, 3] / pixels[:, 2]
    assert area.min() > 0.6 and area.max() <= 1 and aspect.min() > 1.9 and aspect.max() < 3.1


def test_whole_image_where_no_try_fits():
    windows = crop_windows(augmentation(50), np.full(50, 400), np.full(50, 20))  # far wider than high
    assert (windows == [0, 0, 1, 1]).all()


def test_flip_probability():
    assert not augmentation(flip=0.0).flip.any()
    assert augmentation(flip=1.0).flip.all()
    assert 120 < augmentation(flip=0.5).flip.sum() < 280


def test_slices_and_concatenation():
    draws = augmentation(10)
    again = concatenate([draws[:4], draws[4:5], draws[5:]])
    assert len(draws[:4]) == 4
    assert all((getattr(again, name) == value).all() for name, value in vars(draws).items())
