"""Eq. 4: the shares of any division into ranks add up to the whole, whose parts are the two losses."""

from __future__ import annotations

import pytest
import torch

from taudl_dist.config import LossConfig
from taudl_dist.errors import UserError
from taudl_dist.losses import (
    Association,
    Discrimination,
    as_joint_labels,
    ccta_loss,
    joint_share,
    pctd_loss,
    sample_weights,
    tracklet_means,
)  # fmt: skip

LABEL_COUNTS = (4, 6, 3)
CAMERAS = torch.tensor([0] * 6 + [1] * 6 + [2] * 3)
LABELS = torch.tensor([3, 3, 3, 0, 0, 0, 5, 5, 5, 1, 1, 1, 2, 2, 2])
TRACKLETS = torch.arange(15) // 3
CAMERA_OF_TRACKLET = torch.tensor([0, 0, 1, 1, 2])
OFFSETS = torch.tensor([0, 4, 10])


def inputs(num_heads: int = 3):
    generator = torch.Generator().manual_seed(2)
    counts = LABEL_COUNTS if num_heads == 3 else (sum(LABEL_COUNTS),)
    heads = {c: (torch.randn(m, 5, generator=generator).double(), None) for c, m in enumerate(counts)}
    return torch.randn(15, 5, generator=generator).double(), heads


def discrimination(features, held, config: LossConfig) -> Discrimination:
    head_of, labels = as_joint_labels(CAMERAS, LABELS, OFFSETS) if config.joint_labels else (CAMERAS, LABELS)
    rows = torch.tensor([row for row, head in enumerate(head_of.tolist()) if head in held], dtype=torch.int64)
    present, counts = head_of[rows].unique_consecutive(return_counts=True)
    weights = sample_weights(CAMERAS, reduction=config.pctd_reduction)[rows]
    runs = list(zip(present.tolist(), counts.tolist()))
    return Discrimination(features=features[rows], labels=labels[rows], runs=runs, weights=weights)


def share(features, held, own: slice, config: LossConfig):
    means, _ = tracklet_means(features, TRACKLETS)
    association = Association(means=means, cameras=CAMERA_OF_TRACKLET, own=own) if config.ccta_weight else None
    return joint_share(discrimination(features, held, config), association, heads=held, config=config)


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(),
        LossConfig(ccta_weight=0.2, num_neighbours=2, sigma=1.0, squared=True),
        LossConfig(detach_numerator=True, pctd_reduction="camera_sum"),
        LossConfig(ccta_weight=0.0),
        LossConfig(ccta_weight=1.0),
    ],
    ids=["paper", "variants", "official-code", "pctd", "ccta"],
)
def test_shares_add_up_to_the_mixture(config: LossConfig) -> None:
    features, heads = inputs()
    leaf, whole_leaf = features.clone().requires_grad_(), features.clone().requires_grad_()
    ranks = [({1: heads[1]}, slice(0, 1)), ({}, slice(1, 4)), ({0: heads[0], 2: heads[2]}, slice(4, 5))]
    shares = [share(leaf, held, own, config) for held, own in ranks]
    sum(part.loss for part in shares).backward()

    means, _ = tracklet_means(whole_leaf, TRACKLETS)
    ccta = ccta_loss(
        means, CAMERA_OF_TRACKLET, num_neighbours=config.num_neighbours or None, sigma=config.sigma,
        squared=config.squared, detach_numerator=config.detach_numerator,
    )  # fmt: skip
    pctd = pctd_loss(whole_leaf, CAMERAS, LABELS, heads)
    if config.pctd_reduction == "camera_sum":
        rows = [(CAMERAS == c).nonzero().squeeze(1) for c in range(3)]  # noqa: SIM300
        parts = [(whole_leaf[part], CAMERAS[part], LABELS[part]) for part in rows]
        pctd = sum(pctd_loss(*part, heads) for part in parts)
    ((1 - config.ccta_weight) * pctd + config.ccta_weight * ccta).backward()

    torch.testing.assert_close(leaf.grad, whole_leaf.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sum(part.pctd for part in shares), pctd.detach(), rtol=1e-12, atol=0)
    expected = ccta.detach() if config.ccta_weight else torch.zeros_like(ccta)
    torch.testing.assert_close(sum(part.ccta for part in shares), expected, rtol=1e-12, atol=0)


def test_joint_labels_use_one_classifier_over_all_cameras() -> None:
    features, heads = inputs(num_heads=1)
    ours = share(features, heads, slice(0, 5), LossConfig(joint_labels=True, ccta_weight=0.0))
    expected = torch.nn.functional.cross_entropy(features @ heads[0][0].T, LABELS + OFFSETS[CAMERAS])
    torch.testing.assert_close(ours.loss, expected, rtol=1e-13, atol=0)


def test_one_camera_trains_pctd_but_not_ccta() -> None:
    features, heads = inputs()
    samples = discrimination(features, {0: heads[0]}, LossConfig(ccta_weight=0.0))
    alone = joint_share(samples, None, heads=heads, config=LossConfig(ccta_weight=0.0))
    expected = pctd_loss(features[:6], CAMERAS[:6], LABELS[:6], heads) * 6 / 15
    torch.testing.assert_close(alone.loss, expected, rtol=1e-13, atol=0)
    one_camera = Association(means=features[:2], cameras=torch.tensor([0, 0]), own=slice(0, 2))
    with pytest.raises(UserError, match="--recipe pctd"):
        joint_share(samples, one_camera, heads=heads, config=LossConfig())
