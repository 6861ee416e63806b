"""Heads: their initial weights do not depend on who owns them, and only the owner holds them."""

from __future__ import annotations

import pytest
import torch

from taudl_dist.model import CameraHeads

COUNTS = {0: 3, 5: 400, 2: 1}


def test_weights_are_the_released_codes_and_depend_on_seed_and_camera_alone() -> None:
    torch.manual_seed(0)
    every = CameraHeads(COUNTS, 64, seed=7, owned=COUNTS).mapping()
    torch.manual_seed(99)
    alone = CameraHeads(COUNTS, 64, seed=7, owned=[5]).mapping()
    assert list(alone) == [5]
    assert {camera: tuple(weight.shape) for camera, (weight, _) in every.items()} == {
        0: (3, 64),
        5: (400, 64),
        2: (1, 64),
    }
    assert torch.equal(alone[5][0], every[5][0])
    assert every[5][0].std().item() == pytest.approx(0.001, rel=0.03)
    assert every[5][0].mean().item() == pytest.approx(0, abs=5e-5)
    assert all(torch.equal(bias, torch.zeros(COUNTS[camera])) for camera, (_, bias) in every.items())
    others = [
        CameraHeads({5: 400, 6: 400}, 64, seed=seed, owned=[camera]).mapping()[camera][0]
        for seed, camera in ((8, 5), (7, 6))
    ]
    assert not any(torch.equal(every[5][0], other) for other in others)


def test_a_rank_without_heads_has_no_parameters() -> None:
    heads = CameraHeads(COUNTS, 64, seed=7, owned=[])
    assert heads.mapping() == {}
    assert list(heads.parameters()) == []


def test_mapping_holds_the_parameters_themselves() -> None:
    heads = CameraHeads(COUNTS, 4, seed=0, owned=[2]).double()
    heads.mapping()[2][0].sum().backward()
    assert heads.weights["2"].grad.tolist() == [[1.0] * 4]
    assert heads.weights["2"].dtype == torch.float64
