"""The gather alone, and what it is for: the gradient of Eq. 4 does not depend on the number of ranks.

The whole step (network with batch norm, gather, heads on their owners, CCTA on own rows, DDP's mean, clipping, running statistics) in
groups of 2, 3 and 4 real processes, in float64, against one process without DDP and without collectives.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from taudl_dist.config import LossConfig, ModelConfig
from taudl_dist.losses import joint_share
from taudl_dist.model import CameraHeads, build_model, update_running_statistics
from taudl_dist.parallel import assign_owners, clip_by_global_norm, gather
from tests.parallel.processes import run_groups

SIZES = (2, 3, 4)
TRACKLETS_OF_GROUP = (2, 3, 1, 2, 2)
"""Five groups of four cameras (the last camera has two groups; the third a single tracklet), two images a tracklet."""
CAMERA_OF_GROUP = (0, 1, 2, 3, 3)
LABEL_COUNTS = (5, 9, 1, 6)
RUNS = {2: (3, 2), 3: (2, 2, 1), 4: (2, 1, 1, 1)}
"""World size -> groups of each rank: uneven, and so are the images of a group."""

SETTINGS = {
    "paper": ("group", LossConfig()),
    "more neighbours than there are": ("group", LossConfig(num_neighbours=100, sigma=0.5)),
    "official code": ("group", LossConfig(detach_numerator=True, pctd_reduction="camera_sum")),
    "pctd": ("group", LossConfig(ccta_weight=0.0)),
    "ccta": ("group", LossConfig(ccta_weight=1.0)),
    "one classifier": ("group", LossConfig(joint_labels=True)),
    "one statistic": ("sync", LossConfig()),
}


def global_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    tracklets = torch.arange(sum(TRACKLETS_OF_GROUP)).repeat_interleave(2)
    groups = torch.arange(5).repeat_interleave(2 * torch.tensor(TRACKLETS_OF_GROUP))
    cameras = torch.tensor(CAMERA_OF_GROUP)[groups]
    labels = tracklets % torch.tensor(LABEL_COUNTS)[cameras]
    images = torch.randn(len(groups), 3, 32, 16, dtype=torch.float64, generator=generator)
    return {"images": images, "cameras": cameras, "labels": labels, "tracklets": tracklets}


def step(rank: int, runs: tuple[int, ...], batch_norm: str, config: LossConfig) -> dict[str, Any]:
    """What one rank has after forward, backward, clipping and the running statistics."""
    batch = global_batch()
    ends = list(itertools.accumulate(runs))
    groups_of = [slice(end - run, end) for end, run in zip(ends, runs)]
    rank_tracklets = [sum(TRACKLETS_OF_GROUP[part]) for part in groups_of]
    rank_images = [2 * count for count in rank_tracklets]
    first = sum(rank_tracklets[:rank])
    own = slice(2 * first, 2 * first + rank_images[rank])

    model = build_model(ModelConfig(name="small", feature_dim=12, batch_norm=batch_norm), seed=3).double().train()
    network = DistributedDataParallel(model) if len(runs) > 1 else model
    counts = {0: sum(LABEL_COUNTS)} if config.joint_labels else dict(enumerate(LABEL_COUNTS))
    owners = assign_owners(list(counts.values()), len(runs))
    heads = CameraHeads(counts, 12, seed=3, owned=[c for c in counts if owners[c] == rank]).double()

    sizes = [2 * count for count in TRACKLETS_OF_GROUP[groups_of[rank]]]
    features = gather(network(batch["images"][own], sizes), rank_images)
    share = joint_share(
        features,
        *(gather(batch[name][own], rank_images) for name in ("cameras", "labels", "tracklets")),
        heads=heads.mapping(),
        own_tracklets=slice(first, first + rank_tracklets[rank]),
        label_offsets=torch.tensor([0, *itertools.accumulate(LABEL_COUNTS)][:-1]),
        config=config,
    )
    share.loss.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in [*model.named_parameters(), *heads.named_parameters()]
    }
    norm = clip_by_global_norm(model.parameters(), heads.parameters(), 0.1, world_size=len(runs))
    update_running_statistics(model, world_size=len(runs))
    clipped = next(iter(model.parameters())).grad
    facts = {
        "features": features.detach(),
        "norm": norm,
        "clipped": clipped,
        **gradients,
        **dict(model.named_buffers()),
    }
    return {"shares": torch.stack([share.loss.detach(), share.pctd, share.ccta]), "facts": facts}


def gather_alone(rank: int, size: int) -> dict[str, Any]:
    """Gathers rows that differ in number, and reads them through a transpose, so that the gradient is not contiguous."""
    rows = [3, 1, 2, 4][:size]
    first = sum(rows[:rank])
    everyone = torch.arange(5.0 * sum(rows), dtype=torch.float64).reshape(-1, 5)
    own = everyone[first : first + rows[rank]].clone().requires_grad_()
    together = gather(own, rows)
    factors = torch.linspace(rank + 1, rank + 2, together.numel(), dtype=torch.float64).reshape(5, -1)
    (together.T * factors).sum().backward()
    low = gather(own.detach().bfloat16(), rows)
    return {"together": together.detach(), "gradient": own.grad, "factors": factors, "first": first, "low": low}


def everything(rank: int, size: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch's way to say that a collective has a new name
        warnings.simplefilter("error", DeprecationWarning)
        steps = {name: step(rank, RUNS[size], *setting) for name, setting in SETTINGS.items()}
        return {"gather": gather_alone(rank, size), "steps": steps}


@functools.cache
def one_process(setting: str) -> dict[str, Any]:
    return step(0, (5,), *SETTINGS[setting])


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    folder: Path = tmp_path_factory.mktemp("groups")
    return run_groups(everything, sizes=SIZES, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_equals_that_of_one_process(groups: dict[int, list[Any]], setting: str, size: int) -> None:
    alone = one_process(setting)
    ranks = [result["steps"][setting] for result in groups[size]]
    torch.testing.assert_close(sum(rank["shares"] for rank in ranks), alone["shares"], rtol=1e-12, atol=0)
    seen = set()
    for rank in ranks:
        for name, value in rank["facts"].items():
            expected = alone["facts"][name]
            difference = (value - expected).double().norm() / expected.double().norm().clamp(min=1e-30)
            assert difference < 1e-12, f"{name}: {difference}"
            seen.add(name)
    assert seen == set(alone["facts"])  # every head has an owner


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_gather_of_uneven_rows_sums_the_gradient_of_all_ranks(groups: dict[int, list[Any]], size: int) -> None:
    ranks = [result["gather"] for result in groups[size]]
    everyone = torch.arange(ranks[0]["together"].numel(), dtype=torch.float64).reshape(-1, 5)
    total = sum(rank["factors"] for rank in ranks).T * size  # the one factor W
    for rank in ranks:
        assert torch.equal(rank["together"], everyone)
        assert torch.equal(rank["low"], everyone.bfloat16())
        own = total[rank["first"] : rank["first"] + len(rank["gradient"])]
        torch.testing.assert_close(rank["gradient"], own, rtol=1e-14, atol=0)


def test_without_a_group_it_is_the_identity() -> None:
    own = torch.randn(3, 2, requires_grad=True)
    assert gather(own, [3]) is own
