"""Collectives alone, against what one process would do: the gather of uneven rows and the exchange between owners, with gradients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taudl_dist.parallel import Route, exchange, gather
from tests.parallel.processes import run_groups

SIZES = (2, 3, 4)
ROWS = (3, 1, 2, 4)
"""Rows of every rank."""


def gather_alone(rank: int, size: int) -> dict[str, Any]:
    """Gathers rows that differ in number, and reads them through a transpose, so that the gradient is not contiguous."""
    rows = ROWS[:size]
    first = sum(rows[:rank])
    everyone = torch.arange(5.0 * sum(rows), dtype=torch.float64).reshape(-1, 5)
    own = everyone[first : first + rows[rank]].clone().requires_grad_()
    together = gather(own, rows)
    factors = torch.linspace(rank + 1, rank + 2, together.numel(), dtype=torch.float64).reshape(5, -1)
    (together.T * factors).sum().backward()
    low = gather(own.detach().bfloat16(), rows)
    return {"together": together.detach(), "gradient": own.grad, "factors": factors, "first": first, "low": low}


def destinations(size: int) -> np.ndarray:
    """Rank 1 receives nothing where there are more than two."""
    total = sum(ROWS[:size])
    ranks = [0, 1] if size == 2 else [rank for rank in range(size) if rank != 1]
    return np.array(ranks)[np.arange(total) * 7 % len(ranks)]


def exchange_alone(rank: int, size: int) -> dict[str, Any]:
    """Rows go where they belong; the gradient that comes back is not contiguous either."""
    rows = ROWS[:size]
    first = sum(rows[:rank])
    everyone = torch.arange(5.0 * sum(rows), dtype=torch.float64).reshape(-1, 5)
    own = everyone[first : first + rows[rank]].clone().requires_grad_()
    route = Route.plan(destinations(size), rows, rank)
    found = exchange(own, route)
    (found.T * torch.from_numpy(route.rows + 1.0)).sum().backward()
    still = Route.plan(np.repeat(np.arange(size), rows), rows, rank)
    return {"found": found.detach(), "gradient": own.grad, "first": first, "stays": exchange(own, still) is own}


def everything(rank: int, size: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch's way to say that a collective has a new name
        warnings.simplefilter("error", DeprecationWarning)
        return {"gather": gather_alone(rank, size), "exchange": exchange_alone(rank, size)}


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    folder: Path = tmp_path_factory.mktemp("groups")
    return run_groups(everything, sizes=SIZES, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_gather_of_uneven_rows_sums_the_gradient_of_all_ranks(groups: dict[int, list[Any]], size: int) -> None:
    ranks = [result["gather"] for result in groups[size]]
    everyone = torch.arange(ranks[0]["together"].numel(), dtype=torch.float64).reshape(-1, 5)
    total = sum(rank["factors"] for rank in ranks).T
    for rank in ranks:
        assert torch.equal(rank["together"], everyone)
        assert torch.equal(rank["low"], everyone.bfloat16())
        own = total[rank["first"] : rank["first"] + len(rank["gradient"])]
        torch.testing.assert_close(rank["gradient"], own, rtol=1e-14, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_exchange_brings_every_row_to_its_owner_and_its_gradient_back(groups: dict[int, list[Any]], size: int) -> None:
    total = sum(ROWS[:size])
    everyone = torch.arange(5.0 * total, dtype=torch.float64).reshape(-1, 5)
    for rank, result in enumerate(groups[size]):
        found = result["exchange"]
        assert torch.equal(found["found"], everyone[torch.from_numpy(destinations(size) == rank)])
        expected = (
            (torch.arange(total) + 1.0).double()[found["first"] : found["first"] + ROWS[rank], None].expand(-1, 5)
        )
        assert torch.equal(found["gradient"], expected)
        assert found["stays"]


def test_without_a_group_both_are_the_identity() -> None:
    own = torch.randn(3, 2, requires_grad=True)
    assert gather(own, [3]) is own
    assert exchange(own, Route.plan(np.zeros(3, np.int64), [3], 0)) is own


@pytest.mark.parametrize(
    ("destinations", "sizes", "rank", "expected"),
    [
        ([0, 1, 1, 0, 0], (2, 3), 0, ((1, 1), (1, 2), [0, 3, 4])),
        ([0, 1, 1, 0, 0], (2, 3), 1, ((2, 1), (1, 1), [1, 2])),
        ([2, 2, 2], (1, 1, 1), 0, ((0, 0, 1), (0, 0, 0), [])),  # a rank that owns nothing of this batch
        ([2, 2, 2], (1, 1, 1), 2, ((0, 0, 1), (1, 1, 1), [0, 1, 2])),
    ],
)
def test_route(destinations: list[int], sizes: tuple[int, ...], rank: int, expected: tuple[Any, ...]) -> None:
    route = Route.plan(np.array(destinations), sizes, rank)
    assert (route.sent, route.received, route.rows.tolist()) == expected
    assert route.moves
