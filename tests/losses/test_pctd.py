"""PCTD (Eq. 1-2) against a loop written from the formula, and its errors."""

from __future__ import annotations

import pytest
import torch

from taudl_dist.errors import UserError
from taudl_dist.losses import as_joint_labels, pctd_loss, pctd_sum, sample_weights

LABEL_COUNTS = {4: 3, -9: 5, 70_000: 1, 1: 8}


def samples(dtype: torch.dtype = torch.float64):
    """Features (13, 6), cameras and labels (13,), and a head with bias for every second camera."""
    generator = torch.Generator().manual_seed(1)
    cameras = torch.tensor(list(LABEL_COUNTS))[torch.randint(4, (13,), generator=generator)]
    labels = torch.tensor([int(torch.randint(LABEL_COUNTS[c], (), generator=generator)) for c in cameras.tolist()])
    features = torch.randn(13, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    heads = {}
    for position, (camera, count) in enumerate(LABEL_COUNTS.items()):
        weight = torch.randn(count, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        bias = torch.randn(count, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        heads[camera] = (weight, bias if position % 2 else None)
    return features, cameras, labels, heads


def slow_terms(features, cameras, labels, heads) -> list[torch.Tensor]:
    """Eq. 1 of each sample, by exp and log of Python sums."""
    terms = []
    for x, camera, label in zip(features, cameras.tolist(), labels.tolist()):
        weight, bias = heads[camera]
        scores = [w @ x + (0 if bias is None else bias[k]) for k, w in enumerate(weight)]
        terms.append(-torch.log(torch.exp(scores[label]) / sum(torch.exp(score) for score in scores)))
    return terms


def by_camera(features, cameras, labels, weights, held):
    """What pctd_sum takes: the samples whose heads are held, one camera after another, and the runs."""
    order = cameras.argsort(stable=True)
    order = order[[camera in held for camera in cameras[order].tolist()]]
    present, counts = cameras[order].unique_consecutive(return_counts=True)
    return features[order], labels[order], list(zip(present.tolist(), counts.tolist())), held, weights[order]


def tensors(features, heads) -> list[torch.Tensor]:
    return [features] + [part for head in heads.values() for part in head if part is not None]


def test_equals_a_loop_in_value_and_gradient() -> None:
    features, cameras, labels, heads = samples()
    leaves = tensors(features, heads)
    ours = pctd_loss(features, cameras, labels, heads)
    expected = sum(slow_terms(features, cameras, labels, heads)) / 13
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=0)
    pairs = zip(
        torch.autograd.grad(ours, leaves, allow_unused=True), torch.autograd.grad(expected, leaves, allow_unused=True)
    )
    for gradient, reference in pairs:
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-15)


def test_heads_of_two_owners_add_up() -> None:
    features, cameras, labels, heads = samples()
    weights = sample_weights(cameras, reduction="mean")
    whole = pctd_loss(features, cameras, labels, heads)
    halves = [{c: heads[c] for c in owned} for owned in ((4, 70_000), (-9, 1))]
    total = sum(pctd_sum(*by_camera(features, cameras, labels, weights, half)) for half in halves)
    torch.testing.assert_close(total, whole, rtol=1e-14, atol=0)


def test_no_head_of_this_batch_gives_a_zero_in_the_graph() -> None:
    features, cameras, labels, _ = samples()
    loss = pctd_sum(*by_camera(features, cameras, labels, sample_weights(cameras, reduction="mean"), {}))
    loss.backward()
    assert loss == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_camera_sum_is_the_sum_of_each_cameras_mean() -> None:
    features, cameras, labels, heads = samples()
    ours = pctd_sum(*by_camera(features, cameras, labels, sample_weights(cameras, reduction="camera_sum"), heads))
    terms = torch.stack(slow_terms(features, cameras, labels, heads))
    expected = sum(terms[cameras == camera].mean() for camera in set(cameras.tolist()))
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=0)


def test_low_precision_is_computed_in_float32() -> None:
    features, cameras, labels, heads = samples(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = pctd_loss(features, cameras, labels, heads)
    assert loss.dtype == torch.float32
    wide = {c: (w.double(), None if b is None else b.double()) for c, (w, b) in heads.items()}
    torch.testing.assert_close(loss.double(), pctd_loss(features.double(), cameras, labels, wide), rtol=1e-5, atol=0)


def test_large_scores_stay_finite() -> None:
    features, cameras, labels, heads = samples(torch.float32)
    loss = pctd_loss(features * 1e6, cameras, labels, heads)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_its_head_is_named(label: int) -> None:
    head = {6: (torch.zeros(3, 2), None)}
    with pytest.raises(UserError, match=rf"label {label} of camera 6 .* 0\.\.2"):
        pctd_loss(torch.zeros(2, 2), torch.tensor([6, 6]), torch.tensor([0, label]), head)


def test_a_camera_without_head_is_named() -> None:
    with pytest.raises(UserError, match=r"camera 8 .* no head"):
        pctd_loss(torch.zeros(1, 2), torch.tensor([8]), torch.tensor([0]), {6: (torch.zeros(3, 2), None)})


def test_an_empty_batch_is_refused() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(UserError, match="empty batch"):
        pctd_loss(torch.zeros(0, 2), empty, empty, {})


def test_joint_labels_number_all_cameras_through() -> None:
    heads_of, labels = as_joint_labels(torch.tensor([0, 2, 1, 2]), torch.tensor([1, 0, 2, 3]), torch.tensor([0, 5, 9]))
    assert heads_of.tolist() == [0, 0, 0, 0]
    assert labels.tolist() == [1, 9, 7, 12]
