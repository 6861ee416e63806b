"""Mutual association against cosines and softmaxes written out, and the rule of which cameras are sought in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taudl_dist.losses.mutual import find_back, pull, seek, signatures, sought_pairs


def head(labels: int, width: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(labels, width, dtype=torch.float64, generator=generator) + 3.0
    return weight, torch.randn(labels, dtype=torch.float64, generator=generator)


def test_seek_gives_the_label_of_the_largest_score_and_its_cross_entropy() -> None:
    weight, bias = head(5)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 3, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = seek(features.mean(1), (weight, bias))
    assert labels.tolist() == (features.mean(1) @ weight.T + bias).argmax(1).tolist()
    loss = pull(features, labels, (weight, bias))
    for tracklet, label, found in zip(features, labels, loss):
        expected = [-(weight @ image + bias).log_softmax(0)[label] for image in tracklet]
        torch.testing.assert_close(found, torch.stack(expected).mean())
    loss.sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0


def test_find_back_is_the_largest_cosine_of_centred_weights() -> None:
    ours, theirs = head(6, seed=2), head(9, seed=3)
    labels = torch.tensor([4, 0, 8, 4])
    back = find_back(signatures(theirs, labels), ours)
    expected = []
    for label in labels.tolist():
        towards = theirs[0][label] - theirs[0].mean(0)
        cosines = [torch.cosine_similarity(towards, row - ours[0].mean(0), dim=0) for row in ours[0]]
        expected.append(int(torch.stack(cosines).argmax()))
    assert back.tolist() == expected


def test_a_camera_with_one_label_finds_nobody_back() -> None:
    assert find_back(torch.ones(3, 7, dtype=torch.float64), head(1)).tolist() == [-1, -1, -1]


def test_equal_rows_are_no_division_by_zero() -> None:
    same = (torch.ones(3, 7), None)
    assert torch.isfinite(find_back(torch.ones(2, 7), same).double()).all()
    labels = seek(torch.ones(2, 7), same)
    assert labels.tolist() == [0, 0] and torch.isfinite(pull(torch.ones(2, 1, 7), labels, same)).all()


@pytest.mark.parametrize(("num_cameras", "at_most"), [(1, 8), (2, 8), (3, 1), (6, 8), (6, 2), (7, 4), (40, 8)])
def test_every_other_camera_has_its_turn(num_cameras: int, at_most: int) -> None:
    cameras = np.repeat(np.arange(num_cameras) * 3 + 1, 2)
    count = min(at_most, num_cameras - 1)
    seen: dict[int, list[int]] = {tracklet: [] for tracklet in range(len(cameras))}
    for step in range(num_cameras):
        tracklets, sought = sought_pairs(cameras, step=step, at_most=at_most)
        assert len(tracklets) == len(sought) == len(cameras) * count
        for tracklet in seen:
            here = sought[tracklets == tracklet].tolist()
            assert len(set(here)) == count and cameras[tracklet] not in here
            seen[tracklet] += here
    for tracklet, found in seen.items():
        assert set(found) == set(cameras.tolist()) - {cameras[tracklet]}
