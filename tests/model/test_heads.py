"""Heads: their initial weights do not depend on who holds them; packed rows, gradients of the heads asked for alone."""

from __future__ import annotations

import pytest
import torch

from taudl_dist.model import CameraHeads

COUNTS = {0: 3, 5: 400, 2: 1}


def _weight(heads: CameraHeads, camera: int) -> torch.Tensor:
    return heads.weight[heads.rows[camera]]


def test_weights_are_the_released_codes_and_depend_on_seed_and_camera_alone() -> None:
    torch.manual_seed(0)
    every = CameraHeads(COUNTS, 64, seed=7, held=COUNTS)
    torch.manual_seed(99)
    alone = CameraHeads(COUNTS, 64, seed=7, held=[5])
    assert every.rows == {0: slice(0, 3), 5: slice(3, 403), 2: slice(403, 404)}
    assert alone.rows == {5: slice(0, 400)}
    assert (every.weight.shape, every.bias.tolist()) == ((404, 64), [0.0] * 404)
    assert torch.equal(_weight(alone, 5), _weight(every, 5))
    assert _weight(every, 5).std().item() == pytest.approx(0.001, rel=0.03)
    assert _weight(every, 5).mean().item() == pytest.approx(0, abs=5e-5)
    others = [
        _weight(CameraHeads({5: 400, 6: 400}, 64, seed=seed, held=[camera]), camera)
        for seed, camera in ((8, 5), (7, 6))
    ]
    assert not any(torch.equal(_weight(every, 5), other) for other in others)


def test_double_precision_starts_from_the_same_numbers() -> None:
    single, double = (CameraHeads(COUNTS, 8, seed=7, held=[5], dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.weight.double(), double.weight)


def test_a_rank_without_heads_holds_nothing() -> None:
    heads = CameraHeads(COUNTS, 64, seed=7, held=[])
    assert (heads.rows, heads.leaves([]), heads.weight.shape, heads.bias.shape) == ({}, {}, (0, 64), (0,))


def test_leaves_are_views_with_gradients_of_their_own() -> None:
    heads = CameraHeads(COUNTS, 4, seed=0, held=COUNTS, dtype=torch.float64)
    leaves = heads.leaves([2])
    weight, bias = leaves[2]
    (weight.sum() + 3 * bias.sum()).backward()
    assert (weight.grad.tolist(), bias.grad.tolist()) == ([[1.0] * 4], [3.0])
    with torch.no_grad():
        weight.zero_()
    assert not _weight(heads, 2).any()  # the same memory
    assert heads.weight.grad is None and not heads.weight.requires_grad
