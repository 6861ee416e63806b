"""Batch norm in groups and over ranks, against torch's own on each group and on the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from taudl_dist.errors import UserError
from taudl_dist.model import update_running_statistics
from taudl_dist.model.batch_norm import BatchLayout, GroupBatchNorm, _normalise, convert_batch_norm, set_group_sizes
from tests.parallel.processes import run_groups

SHAPES = [(5,), (5, 4, 3)]
ROWS = {2: (6, 3), 3: (4, 1, 4)}
"""World size -> images of each rank in the `sync` test; one has a single image."""


def layer(mode: str, group_sizes: Sequence[int]) -> GroupBatchNorm:
    made = GroupBatchNorm(5, BatchLayout(mode=mode)).double()
    with torch.no_grad():
        made.weight.copy_(torch.linspace(0.5, 2, 5))
        made.bias.copy_(torch.linspace(-1, 1, 5))
    set_group_sizes(made.layout, group_sizes, sum(group_sizes))
    return made


def torchs(like: GroupBatchNorm, shape: Sequence[int]) -> nn.Module:
    reference = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(5).double()
    reference.load_state_dict(like.state_dict())
    return reference


def images(shape: Sequence[int], count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs far from zero, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, count, *shape, dtype=torch.float64, generator=generator)
    return draw[0] * 3 + 100, draw[1]


def apply(module: nn.Module, x: torch.Tensor, slope: torch.Tensor) -> list[torch.Tensor]:
    """Output and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    y = module(x)
    (y * slope).sum().backward()
    return [y.detach(), x.grad, module.weight.grad, module.bias.grad]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_group_has_torchs_batch_norm(shape: Sequence[int]) -> None:
    sizes = (2, 4, 3)
    ours = layer("group", sizes)
    x, slope = images(shape)
    references = [torchs(ours, shape) for _ in sizes]
    parts = [apply(*part) for part in zip(references, x.split(sizes), slope.split(sizes))]
    output, gradient, weight, bias = apply(ours, x, slope)
    torch.testing.assert_close(output, torch.cat([part[0] for part in parts]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.cat([part[1] for part in parts]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weight, sum(part[2] for part in parts), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bias, sum(part[3] for part in parts), rtol=1e-12, atol=1e-12)

    assert torch.equal(ours.running_mean, torch.zeros(5).double())  # statistics move once a step, later
    update_running_statistics(ours)
    update_running_statistics(ours)  # nothing is left to count twice
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(reference, name) for reference in references]).mean(0)
        torch.testing.assert_close(getattr(ours, name), expected, rtol=1e-13, atol=0)
    assert ours.num_batches_tracked == 1


@pytest.mark.parametrize("sizes", [(3, 3, 3), (2, 2, 3, 2), (4, 2, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_groups_merged_by_a_compiler_have_the_same_numbers(shape: Sequence[int], sizes: Sequence[int]) -> None:
    """Also the path of small groups on a GPU."""
    alone, compiled = layer("group", sizes), layer("group", sizes)
    compiled.compile(backend="aot_eager", fullgraph=True)
    x, slope = images(shape)
    for mine, theirs in zip(apply(compiled, x, slope), apply(alone, x, slope)):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(compiled.pending, alone.pending, rtol=1e-13, atol=0)


def test_merging_keeps_channels_last_and_low_precision() -> None:
    x = images((5, 4, 3))[0].bfloat16().contiguous(memory_format=torch.channels_last)
    ours = layer("group", (3, 3, 3)).float()
    output, means, _ = _normalise(x, ours.weight, ours.bias, groups=3, eps=ours.eps)
    assert means.dtype == torch.float32
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, ours(x), rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("mode", ["group", "sync"])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_group_alone_is_torchs_batch_norm(shape: Sequence[int], mode: str) -> None:
    ours = layer(mode, (9,))
    reference = torchs(ours, shape)
    x, slope = images(shape)
    for mine, theirs in zip(apply(ours, x, slope), apply(reference, x, slope)):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)
    update_running_statistics(ours)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["group", "sync"])
def test_low_precision_inputs_have_float32_statistics(mode: str) -> None:
    ours = layer(mode, (4, 5)).float()
    x, slope = (values.bfloat16() for values in images((5, 4, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        found = apply(ours, x, slope)
    assert [values.dtype for values in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert ours.pending.dtype == torch.float32
    for mine, theirs in zip(found, apply(layer(mode, (4, 5)), x.double(), slope.double())):
        torch.testing.assert_close(mine.double(), theirs, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize(("mode", "sizes"), [("group", (4, 1)), ("sync", (1,))])
def test_a_single_value_is_refused_with_a_way_out(mode: str, sizes: Sequence[int]) -> None:
    with pytest.raises(UserError, match="needs two: raise batch"):
        layer(mode, sizes)(torch.zeros(sum(sizes), 5).double())
    assert layer(mode, sizes)(torch.zeros(sum(sizes), 5, 2, 2).double()).isfinite().all()


def test_conversion_keeps_names_and_values() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)), nn.BatchNorm1d(2)
    )
    network[1][0].running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    convert_batch_norm(network, BatchLayout(mode="group"))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert isinstance(network[1][0], GroupBatchNorm)
    assert (network[1][0].eps, network[1][0].momentum) == (1e-3, 0.2)


@pytest.mark.parametrize(
    ("mode", "sizes", "shape", "found"),
    [
        ("group", (3, 1), (4, 5, 1, 1), "a group of 1 image in"),  # one value, though in four dimensions
        ("group", (4, 0), (4, 5), "a group of 0 images in"),
        ("group", (), (0, 5, 2, 2), "a group of 0 images in"),  # empty batch
        ("group", (), (1, 5), "a group of 1 image in"),  # no sizes: one group
        ("sync", (), (0, 5), "found 0 values per channel"),
    ],
)
def test_too_few_values(mode: str, sizes: Sequence[int], shape: Sequence[int], found: str) -> None:
    with pytest.raises(UserError, match=found):
        layer(mode, sizes)(torch.zeros(shape).double())


@pytest.mark.parametrize("mode", ["group", "sync"])
def test_a_large_mean_does_not_cancel_the_variance(mode: str) -> None:
    """E[x^2] - E[x]^2 in float32 would be wrong in all digits here."""
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1)) + 3000
    ours = GroupBatchNorm(5, BatchLayout(mode=mode))
    torch.testing.assert_close(ours(x).var(0), torch.ones(5), rtol=1e-2, atol=0)


@pytest.mark.parametrize("mode", ["group", "sync"])
def test_constant_channels_have_no_gradient(mode: str) -> None:
    output, gradient, *_ = apply(layer(mode, (3, 3)), torch.full((6, 5), 0.25).double(), torch.ones(6, 5).double())
    torch.testing.assert_close(output[0], torch.linspace(-1, 1, 5).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["group", "sync"])
def test_eval_leaves_no_trace(mode: str) -> None:
    ours = layer(mode, (99,)).eval()  # sizes of an earlier batch, and a batch of one
    ours(torch.ones(1, 5).double())
    update_running_statistics(ours)
    assert torch.equal(ours.running_mean, torch.zeros(5).double())
    assert ours.num_batches_tracked == 0


def test_order_of_the_groups_does_not_matter() -> None:
    x, _ = images((5,))
    one, other = layer("group", (2, 4, 3)), layer("group", (3, 2, 4))
    one(x)
    other(torch.cat([x[6:], x[:6]]))
    torch.testing.assert_close(one.pending, other.pending, rtol=1e-13, atol=0)


def test_sizes_must_cover_the_batch() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) sum to 5, but the batch has 6"):
        set_group_sizes(BatchLayout(mode="group"), [2, 3], 6)


def test_a_copy_of_a_network_has_a_layout_of_its_own() -> None:
    network = layer("group", (2, 2))
    set_group_sizes(copy.deepcopy(network).layout, [4], 4)
    assert network.layout.group_sizes == (2, 2)


def over_ranks(rank: int, size: int) -> dict[str, Any]:
    rows = ROWS[size]
    own = slice(sum(rows[:rank]), sum(rows[: rank + 1]))
    results = {}
    for shape in SHAPES:
        ours = layer("sync", (rows[rank],))
        x, slope = images(shape)
        results[str(shape)] = apply(ours, x[own], slope[own])
        update_running_statistics(ours, world_size=size)
        results[str(shape)] += [ours.running_mean, ours.running_var]
    return results


@pytest.mark.slow
def test_sync_over_ranks_is_torchs_batch_norm_of_the_whole_batch(tmp_path: Path) -> None:
    for size, ranks in run_groups(over_ranks, sizes=tuple(ROWS), folder=tmp_path).items():
        for shape in SHAPES:
            outputs, gradients, weights, biases, means, variances = zip(*(rank[str(shape)] for rank in ranks))
            reference = torchs(layer("sync", (9,)), shape)
            expected = apply(reference, *images(shape))
            ours = [torch.cat(outputs), torch.cat(gradients), sum(weights), sum(biases)]
            for mine, theirs in zip(ours, expected):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11, msg=f"{size} ranks")
            for mean, variance in zip(means, variances):
                torch.testing.assert_close(mean, reference.running_mean, rtol=1e-13, atol=0)
                torch.testing.assert_close(variance, reference.running_var, rtol=1e-12, atol=0)
