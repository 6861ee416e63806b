"""CCTA (Eq. 3) against loops written from the paper's formula, and at the edges of its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from taudl_dist.errors import UserError
from taudl_dist.losses import ccta_loss, ccta_rows, tracklet_means


def slow_ccta(
    features: torch.Tensor, cameras: Sequence[int], *, num_neighbours: int, sigma: float, squared: bool
) -> torch.Tensor:
    """Eq. 3 as printed: a loop over tracklets, distances by subtraction, exp and log without care for underflow."""
    total = features.new_zeros(())
    for i, camera in enumerate(cameras):
        distances = []
        for j in range(len(cameras)):
            difference = features[i] - features[j]
            is_same = bool((difference == 0).all())  # sqrt has no derivative at 0
            square = difference.square().sum()
            distances.append(square if squared or is_same else square.sqrt())
        others = sorted((j for j in range(len(cameras)) if cameras[j] != camera), key=lambda j: distances[j].item())
        similar = [torch.exp(-distances[j] / (2 * sigma**2)) for j in others[:num_neighbours]]
        everyone = [torch.exp(-distance / (2 * sigma**2)) for distance in distances]
        total = total - torch.log(sum(similar) / sum(everyone))
    return total / len(cameras)


def batch(num_tracklets: int, dim: int, cameras: Sequence[int], *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_tracklets, dim, dtype=torch.float64, generator=generator)
    return features, torch.tensor(cameras)[torch.randint(len(cameras), (num_tracklets,), generator=generator)]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("sigma", "num_neighbours"), [(2.0, 1), (2.0, 3), (0.7, 5), (2.0, 1000)])
def test_equals_a_loop_in_value_and_gradient(sigma: float, num_neighbours: int, squared: bool) -> None:
    features, cameras = batch(14, 5, [7, -3, 10_000_000_019])
    fast, slow = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = ccta_loss(fast, cameras, num_neighbours=num_neighbours, sigma=sigma, squared=squared)
    expected = slow_ccta(slow, cameras.tolist(), num_neighbours=num_neighbours, sigma=sigma, squared=squared)
    ours.backward()
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("num_cameras", "neighbours"), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_default_number_of_neighbours_is_half_the_cameras(num_cameras: int, neighbours: int) -> None:
    features, _ = batch(21, 4, [0])
    cameras = torch.arange(21) % num_cameras * 11
    torch.testing.assert_close(
        ccta_loss(features, cameras), ccta_loss(features, cameras, num_neighbours=neighbours), rtol=0, atol=0
    )


def test_near_and_identical_tracklets_lose_no_digit() -> None:
    """The matrix product alone would give 1e-6 for the distance of two equal rows in float64."""
    features, _ = batch(10, 64, [0])
    features[1], features[2], features[3] = features[0], features[0] + 1e-9, features[0] * 1.0001
    features += 1e3
    cameras = torch.arange(10) % 2
    fast, slow = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = ccta_loss(fast, cameras, num_neighbours=2, sigma=0.5)
    expected = slow_ccta(slow, cameras.tolist(), num_neighbours=2, sigma=0.5, squared=False)
    ours.backward()
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_collapsed_features_have_the_loss_of_a_guess_and_no_gradient(dtype: torch.dtype) -> None:
    features = torch.full((12, 8), 0.1, dtype=dtype, requires_grad=True)
    loss = ccta_loss(features, torch.arange(12) % 3, num_neighbours=2)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(12 / 2), rel=1e-6)
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("squared", [False, True])
def test_no_scale_of_features_breaks_it(scale: float, squared: bool) -> None:
    """At 1e8 every exp but a tracklet's own is zero even in float64: only a log-sum-exp keeps the loss finite."""
    features, cameras = batch(20, 16, [1, 2, 3])
    features = (features * scale).float().requires_grad_()
    loss = ccta_loss(features, cameras, squared=squared)
    loss.backward()
    assert math.isfinite(loss.item())
    assert features.grad.isfinite().all()


def test_low_precision_features_are_computed_in_float32() -> None:
    features, cameras = batch(40, 32, [0, 1, 2, 3])
    low = features.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ccta_loss(low, cameras)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), ccta_loss(low.double(), cameras), rtol=1e-6, atol=0)
    assert ccta_loss(features, cameras).dtype == torch.float64


def test_without_the_pull_what_is_left_is_repulsion() -> None:
    """The released code detaches the numerator: same value, and the gradient of the log of the denominator alone."""
    features, cameras = batch(15, 6, [0, 1, 2])
    detached, whole = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss = ccta_loss(detached, cameras, detach_numerator=True)
    loss.backward()
    torch.testing.assert_close(loss, ccta_loss(features, cameras), rtol=0, atol=0)
    difference = whole[:, None] - whole + torch.eye(15)[..., None].double() * 1e-30
    (-difference.norm(dim=2) / 8).logsumexp(1).mean().backward()
    torch.testing.assert_close(detached.grad, whole.grad, rtol=1e-9, atol=1e-13)


def test_rows_are_parts_of_the_whole_and_add_up_in_the_gradient() -> None:
    features, cameras = batch(11, 5, [4, 9])
    whole, parts = features.clone().requires_grad_(), features.clone().requires_grad_()
    slices = (slice(0, 3), slice(3, 3), slice(3, 10), slice(10, 11))
    rows = torch.cat([ccta_rows(parts, cameras, part, num_neighbours=2) for part in slices])
    loss = ccta_loss(whole, cameras, num_neighbours=2)
    (rows.sum() / 11).backward()
    loss.backward()
    torch.testing.assert_close(rows.mean(), loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=1e-15)


def test_order_of_the_batch_does_not_matter() -> None:
    features, cameras = batch(30, 7, [0, 1, 2, 3, 4])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        ccta_loss(features, cameras), ccta_loss(features[order], cameras[order]), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("cameras", [[3, 3, 3], [5], []])
def test_one_camera_is_refused_with_a_way_out(cameras: list[int]) -> None:
    with pytest.raises(UserError, match=r"two or more.*--recipe pctd"):
        ccta_loss(torch.ones(len(cameras), 2), torch.tensor(cameras, dtype=torch.int64))


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(UserError, match="num_neighbours is 0"):
        ccta_loss(torch.ones(2, 2), torch.tensor([0, 1]), num_neighbours=0)


def test_tracklet_means_of_any_ids_in_any_order() -> None:
    features = torch.arange(12.0).reshape(6, 2).requires_grad_()
    means, ids = tracklet_means(features, torch.tensor([50, -2, 50, 7, -2, 50]))
    assert ids.tolist() == [-2, 7, 50]
    expected = [features[[1, 4]].mean(0), features[3], features[[0, 2, 5]].mean(0)]
    torch.testing.assert_close(means, torch.stack(expected))
    means[2].sum().backward()
    assert features.grad[:, 0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3])
    assert tracklet_means(torch.ones(4, 3).bfloat16(), torch.arange(4))[0].dtype == torch.float32
    assert tracklet_means(torch.ones(4, 3).double(), torch.arange(4))[0].dtype == torch.float64


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_no_scale_is_refused(sigma: float) -> None:
    with pytest.raises(UserError, match="expected a number above 0"):
        ccta_loss(torch.ones(2, 2), torch.tensor([0, 1]), sigma=sigma)


@pytest.mark.parametrize(
    ("cameras", "num_neighbours"),
    [
        ([0, 0, 0, 1], 3),  # camera 1 has one tracklet: all others have one candidate
        ([5, -1], None),  # a tracklet a camera
        ([3, 900, 3, 900, 41], 2),  # ids with gaps
        ([0, 1, 1, 1, 1, 1], 50),  # more than there are tracklets at all
    ],
)
def test_few_candidates(cameras: list[int], num_neighbours: int | None) -> None:
    features = torch.randn(len(cameras), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast, slow = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = ccta_loss(fast, torch.tensor(cameras), num_neighbours=num_neighbours)
    wanted = num_neighbours or max(1, len(set(cameras)) // 2)
    expected = slow_ccta(slow, cameras, num_neighbours=wanted, sigma=2.0, squared=False)
    ours.backward()
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-14)


def test_no_images_have_no_tracklets() -> None:
    means, ids = tracklet_means(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert means.shape == (0, 3)
    assert ids.shape == (0,)
