"""One step against the formulas written out in one process, and for any number of ranks against one.

Adam's first moment after one step without weight decay is 0.1 x the gradient, so a whole `train_step` shows the gradient it used.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from taudl_dist.batches import Batch, Composition
from taudl_dist.config import Config, resolve
from taudl_dist.losses import ccta_loss, pctd_loss, tracklet_means
from taudl_dist.model import CameraHeads, build_model, update_running_statistics
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World
from tests.parallel.processes import run_groups

TRACKLETS_OF_GROUP = (2, 3, 1, 2, 2)
"""Five groups of four cameras (the last camera has two groups; the third a single tracklet)."""
FRAMES = 4
"""Images of a tracklet; with two, batch norm over the smallest group magnifies rounding in fp32."""
CAMERA_OF_GROUP = (0, 1, 2, 4, 4)
LABEL_COUNTS = (5, 9, 1, 0, 6)
"""The fourth camera has no tracklets."""
RUNS = {1: (5,), 2: (3, 2), 3: (2, 2, 1), 4: (2, 1, 1, 1)}
"""World size -> groups of each rank: uneven, and so are the images of a group."""
BASE = {
    "precision": "fp64",
    "recipe": "paper",
    "model": {"name": "small", "feature_dim": 12},
    "batch": {"height": 32, "width": 16},
    "optim": {"weight_decay": 0.0},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {},
    "more neighbours than there are": {"loss": {"num_neighbours": 100, "sigma": 0.5}},
    "official code": {"recipe": "official-code"},
    "pctd": {"recipe": "pctd"},
    "ccta": {"loss": {"ccta_weight": 1.0}},
    "mutual": {"loss": {"mutual_weight": 2.0, "mutual_start": 0.0}},
    "mutual alone, two other cameras": {
        "loss": {"ccta_weight": 0.0, "mutual_weight": 2.0, "mutual_start": 0.0, "mutual_cameras": 2}
    },
    "one classifier": {"recipe": "jcc"},
    "one statistic": {"model": {"name": "small", "feature_dim": 12, "batch_norm": "sync"}},
    "clipped": {"optim": {"weight_decay": 0.0, "clip_norm": 0.1}},
}
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "owned": {},
    "replicated heads": {"parallel": {"heads": "replicated"}},
    "two passes": {"parallel": {"two_pass": True}},
}


def configured(*changes: dict[str, Any]) -> Config:
    return resolve(functools.reduce(lambda under, over: {**under, **over}, changes, BASE))


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(FRAMES * sum(TRACKLETS_OF_GROUP), 3, 32, 16, dtype=torch.float64, generator=generator).to(dtype)


def composition(size: int) -> Composition:
    cameras = np.repeat(CAMERA_OF_GROUP, TRACKLETS_OF_GROUP)
    ends = list(itertools.accumulate(RUNS[size], initial=0))
    return Composition(
        cameras=cameras,
        labels=np.arange(len(cameras)) % np.array(LABEL_COUNTS)[cameras],
        frames=FRAMES,
        rank_tracklets=tuple(sum(TRACKLETS_OF_GROUP[start:stop]) for start, stop in itertools.pairwise(ends)),
    )


def learner_of(config: Config, world: World) -> Learner:
    offsets = np.concatenate([[0], np.cumsum(LABEL_COUNTS)])
    index = SimpleNamespace(camera_offsets=offsets, __len__=lambda: offsets[-1])
    training = type("Index", (), {"__len__": lambda _: int(offsets[-1]), "camera_offsets": index.camera_offsets})()
    dataset: Any = SimpleNamespace(training=training, cameras=[f"cam{camera}" for camera in range(len(LABEL_COUNTS))])
    return Learner.build(config, dataset, world)


def batch_of(world: World) -> Batch:
    whole = composition(world.size)
    own = whole.tracklets_of(world.rank)
    first = sum(RUNS[world.size][: world.rank])
    groups = TRACKLETS_OF_GROUP[first : first + RUNS[world.size][world.rank]]
    return Batch(
        step=0,
        images=images()[FRAMES * own.start : FRAMES * own.stop],
        group_sizes=tuple(FRAMES * count for count in groups),
        composition=whole,
    )


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Backbone, and the heads by their camera."""
    state = dict(learner.backbone.state())
    packed, _ = learner.heads.state()
    for camera in learner.heads.saved:
        rows, position = learner.heads.heads.rows[camera], list(learner.heads.heads.rows).index(camera)
        if tuple(learner.heads.saved) != tuple(learner.heads.heads.rows):
            continue
        for name, tensor in packed.items():
            state[f"{camera}/{name}"] = tensor[position] if name.endswith(":step") else tensor[rows]
    return {name: tensor.clone() for name, tensor in state.items()}


def step(rank: int, size: int, config: Config) -> dict[str, Any]:
    """What one rank has after a step."""
    world = World(rank=rank, size=size)
    learner = learner_of(config, world)
    shares = train_step(learner, batch_of(world), lr=1e-3)
    return {"shares": shares, "state": state_of(learner)}


@functools.cache
def one_process(name: str, way: str = "owned") -> dict[str, Any]:
    return step(0, 1, configured(SETTINGS[name], OTHER_WAYS[way]))


def by_the_formulas(config: Config) -> dict[str, torch.Tensor]:
    """Gradients by the public losses on the whole batch: no ranks, no routes, no packing."""
    facts = composition(1)
    cameras, labels = (torch.from_numpy(np.repeat(values, FRAMES)) for values in (facts.cameras, facts.labels))
    tracklets = torch.arange(len(facts.cameras)).repeat_interleave(FRAMES)
    model = build_model(config.model, seed=config.seed).double().train()
    counts = {camera: count for camera, count in enumerate(LABEL_COUNTS) if count}
    packed = CameraHeads(counts, 12, seed=config.seed, held=counts, dtype=torch.float64)
    heads = packed.leaves(counts)
    features = model(images(), tuple(FRAMES * count for count in TRACKLETS_OF_GROUP))
    loss = config.loss
    if loss.pctd_reduction == "camera_sum":
        parts = [cameras == camera for camera in cameras.unique()]
        pctd = sum(pctd_loss(features[part], cameras[part], labels[part], heads) for part in parts)
    else:
        pctd = pctd_loss(features, cameras, labels, heads)
    means, _ = tracklet_means(features, tracklets)
    ccta = ccta_loss(
        means, torch.from_numpy(facts.cameras), num_neighbours=loss.num_neighbours or None, sigma=loss.sigma,
        squared=loss.squared, detach_numerator=loss.detach_numerator,
    )  # fmt: skip
    mutual = mutual_loss(features, facts, heads, loss.mutual_cameras) if loss.mutual_weight else 0.0
    ((1 - loss.ccta_weight) * pctd + loss.ccta_weight * ccta + loss.mutual_weight * mutual).backward()
    update_running_statistics(model)
    gradients = {f"{name}:exp_avg": 0.1 * parameter.grad for name, parameter in model.named_parameters()}
    for camera, (weight, bias) in heads.items():
        gradients |= {f"{camera}/weight:exp_avg": 0.1 * weight.grad, f"{camera}/bias:exp_avg": 0.1 * bias.grad}
    return {**gradients, **dict(model.named_buffers())}


def mutual_loss(features: torch.Tensor, facts: Composition, heads: Any, at_most: int) -> torch.Tensor:
    """Tracklet by tracklet and camera by camera, as the head of losses/mutual.py says."""
    present = sorted(set(facts.cameras.tolist()))
    total, pairs, agreed = features.sum() * 0, 0, 0
    for images, camera, label in zip(features.split(FRAMES), facts.cameras.tolist(), facts.labels.tolist()):
        place = present.index(camera)
        for turn in range(1, 1 + min(at_most, len(present) - 1)):
            (weight, bias), (own, _) = heads[present[(place + turn) % len(present)]], heads[camera]
            best = int((weight @ images.mean(0) + bias).argmax())
            towards = weight[best] - weight.mean(0)
            cosines = [float(torch.cosine_similarity(towards, row - own.mean(0), dim=0).detach()) for row in own]
            pairs += 1
            if len(own) > 1 and int(np.argmax(cosines)) == label:
                total = total - sum((weight @ image + bias).log_softmax(0)[best] for image in images) / FRAMES
                agreed += 1
    assert 0 < agreed < pairs
    return total / pairs


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-12) -> None:
    """Gradients and running statistics; the moved weights are no measure, for Adam makes a full step of the sign of rounding."""
    for name, tensor in expected.items():
        if not name.endswith(":exp_avg") and "running" not in name:
            continue
        difference = (found[name] - tensor).double().norm()
        assert difference <= tolerance * tensor.double().norm().clamp(min=1e-9), f"{name}: {difference}"


@pytest.mark.parametrize(
    "name",
    [
        "paper",
        "more neighbours than there are",
        "official code",
        "pctd",
        "ccta",
        "mutual",
        "mutual alone, two other cameras",
    ],
)
def test_a_step_follows_the_formulas(name: str) -> None:
    assert_close(one_process(name)["state"], by_the_formulas(configured(SETTINGS[name])), 1e-11)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "one statistic"])
def test_two_passes_give_the_numbers_of_one(name: str) -> None:
    one, two = one_process(name), one_process(name, "two passes")
    torch.testing.assert_close(two["shares"], one["shares"], rtol=1e-13, atol=0)
    assert_close(two["state"], one["state"])


def test_two_passes_keep_the_activations_of_one_group() -> None:
    """Bytes that autograd holds at the end of each forward: whole batch against largest group."""
    largest = max(TRACKLETS_OF_GROUP) / sum(TRACKLETS_OF_GROUP)
    peaks = {}
    for way in ("owned", "two passes"):
        learner = learner_of(configured(OTHER_WAYS[way]), World())
        alive = peak = 0

        class Held:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal alive, peak
                self.tensor = tensor
                alive += tensor.nbytes
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.tensor.nbytes

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            train_step(learner, batch_of(World()), lr=1e-3)
        peaks[way] = peak
    weights = sum(parameter.nbytes for parameter in learner.model.parameters())
    assert peaks["two passes"] - weights <= 1.05 * largest * peaks["owned"]


def everything(rank: int, size: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        results = {(name, "owned"): step(rank, size, configured(setting)) for name, setting in SETTINGS.items()}
        for way in ("replicated heads", "two passes"):
            for name in ("paper", "one classifier", "clipped", "mutual"):
                results[name, way] = step(rank, size, configured(SETTINGS[name], OTHER_WAYS[way]))
        for precision in ("fp32", "bf16"):
            config = dataclasses.replace(configured(), precision=precision)
            results[precision, "owned"] = step(rank, size, config)
    return results


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    folder: Path = tmp_path_factory.mktemp("groups")
    return run_groups(everything, sizes=(2, 3, 4), folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "owned") for name in SETTINGS),
        *itertools.product(("paper", "one classifier", "clipped", "mutual"), ("replicated heads", "two passes")),
    ],
)
def test_a_step_of_many_equals_that_of_one(groups: dict[int, list[Any]], name: str, way: str, size: int) -> None:
    alone, ranks = one_process(name), [result[name, way] for result in groups[size]]
    torch.testing.assert_close(sum(rank["shares"] for rank in ranks), alone["shares"], rtol=1e-12, atol=0)
    seen: set[str] = set()
    for rank in ranks:
        assert_close({name: alone["state"][name] for name in rank["state"]}, rank["state"])
        seen |= rank["state"].keys()
    if way != "replicated heads":
        assert seen == set(alone["state"])  # every head has an owner


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_the_gradient_of_a_step_agrees_to_rounding(
    groups: dict[int, list[Any]], precision: Any, tolerance: float, size: int
) -> None:
    """The norm of the difference of the whole gradient, against that of the gradient (promise 3)."""
    alone = step(0, 1, dataclasses.replace(configured(), precision=precision))["state"]
    found: dict[str, torch.Tensor] = {}
    for result in groups[size]:
        found |= result[precision, "owned"]["state"]
    names = [name for name in alone if name.endswith(":exp_avg")]
    assert set(names) <= set(found)
    difference, whole = (
        torch.cat([tensor.double().flatten() for tensor in tensors]).norm()
        for tensors in ([found[name] - alone[name] for name in names], [alone[name] for name in names])
    )
    assert difference <= tolerance * whole
