"""The global gradient norm in one process; test_gather.py has it over ranks."""

from __future__ import annotations

import pytest
import torch

from taudl_dist.parallel import clip_by_global_norm, global_norm


def parameters(*gradients: list[float] | None) -> list[torch.nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(len(gradient or [0.0])))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        made.append(parameter)
    return made


def test_norm_is_that_of_all_gradients_in_one_vector() -> None:
    assert global_norm(parameters([3.0, 0.0], None), parameters([4.0], [12.0])).item() == pytest.approx(13.0)
    assert global_norm(iter(parameters([3.0])), iter([])).item() == pytest.approx(3.0)
    assert global_norm(parameters(None), parameters(None)).item() == 0.0


@pytest.mark.parametrize(("limit", "scale"), [(2.5, 0.5), (5.0, 1.0), (100.0, 1.0)])
def test_clipping_scales_all_down_and_none_up(limit: float, scale: float) -> None:
    backbone, heads = parameters([3.0, 0.0], None), parameters([4.0])
    assert clip_by_global_norm(backbone, heads, limit).item() == pytest.approx(5.0)
    assert backbone[0].grad.tolist() == pytest.approx([3.0 * scale, 0.0])
    assert heads[0].grad.tolist() == pytest.approx([4.0 * scale])
    assert backbone[1].grad is None


def test_no_gradient_at_all_stays_zero() -> None:
    backbone = parameters([0.0, 0.0])
    assert clip_by_global_norm(backbone, [], 1.0).item() == 0.0
    assert backbone[0].grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
def test_clipping_is_torchs(limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(7, 3).double()) for _ in range(4)] for _ in range(2))
    for mine, other in zip(ours, theirs):
        mine.grad = torch.randn(7, 3, dtype=torch.float64, generator=generator)
        other.grad = mine.grad.clone()
    norm = clip_by_global_norm(ours[:3], ours[3:], limit)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, limit), rtol=1e-13, atol=0)
    for mine, other in zip(ours, theirs):  # torch adds 1e-6 to the norm it divides by
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=0)
