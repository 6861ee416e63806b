"""One training step, whatever the number of workers: forward, this worker's share of Eq. 4, backward, update.

A feature travels to the worker that owns its camera's head (PCTD), a tracklet's mean to all workers (CCTA). The shares of all workers
add up to the loss of the global batch, so what comes back to a feature is the gradient of that loss. Heads live on their owner alone,
outside DDP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from taudl_dist.batches import Batch, Composition
from taudl_dist.config import Config
from taudl_dist.dataset import Dataset
from taudl_dist.losses import Association, Discrimination, as_joint_labels, joint_share, sample_weights
from taudl_dist.model import CameraHeads, ReidModel, build_model, update_running_statistics
from taudl_dist.model.batch_norm import forget_statistics
from taudl_dist.parallel import Route, assign_owners, clip_by_global_norm, exchange, gather
from taudl_dist.training.backbone import TrainedBackbone
from taudl_dist.training.forward import forward
from taudl_dist.training.heads import TrainedHeads, sum_gradients
from taudl_dist.training.mutual import mutual_share
from taudl_dist.training.world import World


def train_step(learner: Learner, batch: Batch, *, lr: float) -> torch.Tensor:
    """Moves all weights by one global batch; a collective.

    Returns:
        (3,) float64: this worker's shares of PCTD, CCTA (Eq. 2, Eq. 3) and mutual association; their sums over workers are the
        losses.
    """
    config, world, composition = learner.config, learner.world, batch.composition
    features, back = forward(learner, batch)
    own = features.detach().requires_grad_()

    discrimination = _discrimination(learner, own, composition)
    leaves = learner.heads.heads.leaves(learner.present(composition))
    seeks_matches = config.loss.mutual_weight > 0 and batch.step >= config.loss.mutual_start * config.steps
    association = _association(learner, own, composition) if config.loss.ccta_weight > 0 else None
    mutual = mutual_share(learner, own, composition, leaves, step=batch.step) if seeks_matches else None
    share = joint_share(discrimination, association, mutual, heads=leaves, config=config.loss)
    share.loss.backward()
    assert own.grad is not None
    # DDP divides the network's gradient by the number of workers: the factor W, in this one place
    back(own.grad.mul(world.size))
    if learner.is_replicated:
        sum_gradients(leaves)

    if config.optim.clip_norm:
        shared, owned = learner.backbone.parameters, [tensor for head in leaves.values() for tensor in head]
        if learner.is_replicated:
            shared, owned = [*shared, *owned], []
        clip_by_global_norm(shared, owned, config.optim.clip_norm, world_size=world.size)
    learner.backbone.step(lr=lr)
    learner.heads.step(leaves, lr=lr)
    update_running_statistics(learner.model, world_size=world.size)
    return torch.stack([share.pctd, share.ccta, share.mutual]).double()


def _discrimination(learner: Learner, own: torch.Tensor, composition: Composition) -> Discrimination:
    """What PCTD sees here: the images whose heads this worker owns, or its own images where it has all heads."""
    config, device = learner.config.loss, own.device
    cameras, labels = (
        torch.from_numpy(np.repeat(values, composition.frames)) for values in (composition.cameras, composition.labels)
    )
    weights = sample_weights(cameras, reduction=config.pctd_reduction)
    head_of, label = (
        as_joint_labels(cameras, labels, learner.label_offsets) if config.joint_labels else (cameras, labels)
    )
    rank_images = composition.rank_images
    destinations = (
        np.repeat(np.arange(len(rank_images)), rank_images)
        if learner.is_replicated
        else learner.owners[head_of.numpy()]
    )
    route = Route.plan(destinations, rank_images, learner.world.rank)
    rows = torch.from_numpy(route.rows)
    heads, counts = head_of[rows].unique_consecutive(return_counts=True)
    return Discrimination(
        features=exchange(own, route),
        labels=label[rows].to(device, non_blocking=True),
        runs=list(zip(heads.tolist(), counts.tolist())),
        weights=weights[rows].to(device, non_blocking=True),
    )


def _association(learner: Learner, own: torch.Tensor, composition: Composition) -> Association:
    """What CCTA sees here: the mean feature of every tracklet of the global batch, of which this worker answers for its own."""
    means = own.unflatten(0, (-1, composition.frames)).mean(1)
    return Association(
        means=gather(means, composition.rank_tracklets),
        cameras=torch.from_numpy(composition.cameras),
        own=composition.tracklets_of(learner.world.rank),
    )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What one worker trains: the network all workers share, and the heads it holds."""

    config: Config
    world: World
    model: ReidModel
    network: nn.Module
    """The model, wrapped for averaging its gradient where there are several workers."""
    backbone: TrainedBackbone
    heads: TrainedHeads
    owners: np.ndarray
    """(T,) the worker that owns the head of each camera."""
    label_offsets: torch.Tensor
    """(T,) labels of all cameras before each."""
    dtype: torch.dtype

    @classmethod
    def build(cls, config: Config, dataset: Dataset, world: World, *, pretrained: bool = True) -> Learner:
        """A learner at step 0.

        Args:
            pretrained: load model.weights; a run that is resumed overwrites them anyway.
        """
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        model_config = config.model if pretrained else dataclasses.replace(config.model, weights="")
        model = build_model(model_config, seed=config.seed).to(world.device, dtype).train()
        model.image_size = (config.batch.height, config.batch.width)
        if world.device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # the layout of its tensor cores
        if config.model.compile:
            model.compile(dynamic=False)  # in place, so that the weights keep their names
        counts, names = _label_counts(config, dataset)
        owners = np.array(assign_owners(counts, world.size))
        owned = [head for head, count in enumerate(counts) if count and owners[head] == world.rank]
        held = [head for head, count in enumerate(counts) if count] if config.parallel.heads == "replicated" else owned
        heads = CameraHeads(
            dict(enumerate(counts)), model.feature_dim, seed=config.seed, held=held, device=world.device, dtype=dtype
        )
        return cls(
            config=config,
            world=world,
            model=model,
            network=_averaging(model, world) if world.size > 1 else model,
            backbone=TrainedBackbone(_tensors(model), config.optim),
            heads=TrainedHeads(heads, dict(enumerate(names)), config.optim, saved=owned),
            owners=owners,
            label_offsets=torch.from_numpy(np.array(dataset.training.camera_offsets[:-1])),
            dtype=dtype,
        )

    @property
    def is_replicated(self) -> bool:
        """Whether every worker holds all heads."""
        return self.config.parallel.heads == "replicated" and self.world.size > 1

    def embed(self, network: nn.Module, images: torch.Tensor, group_sizes: tuple[int, ...]) -> torch.Tensor:
        """Features (B, D) in float32 at least."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            features = network(images.to(self.dtype), group_sizes)
        return features.to(self.dtype)

    def without_averaging(self) -> contextlib.AbstractContextManager[None]:
        """Inside, a backward adds to the gradient of this worker alone."""
        network = self.network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()

    def present(self, composition: Composition) -> list[int]:
        """The heads held here that the global batch moves, ascending."""
        heads = [0] if self.config.loss.joint_labels else np.unique(composition.cameras).tolist()
        return [head for head in heads if head in self.heads.heads.rows]


def _label_counts(config: Config, dataset: Dataset) -> tuple[list[int], list[str]]:
    """Labels of each head, and the head's name in a checkpoint: one per camera, or one for all (JCC, Table 4)."""
    if config.loss.joint_labels:
        return [len(dataset.training)], ["all cameras"]
    return np.diff(dataset.training.camera_offsets).tolist(), dataset.cameras


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: named[name] for name in model.state_dict()}


def _averaging(model: ReidModel, world: World) -> DistributedDataParallel:
    """DDP that leaves buffers alone and sums in the same order at every step."""
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = (
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    )  # renamed in torch 2.13
    options: dict[str, Any] = {
        buffers: False,
        "device_ids": [world.device.index] if world.device.type == "cuda" else None,
    }
    network = DistributedDataParallel(model, **options)
    # DDP regroups its buckets after its first backward, which changes the order of sums between three or more workers. Let that
    # be over before the first step: a resumed run must round as one that was never interrupted.
    like = next(model.parameters())
    network(like.new_zeros(2, 3, *model.image_size), (2,)).sum().backward()
    model.zero_grad(set_to_none=True)
    forget_statistics(model)
    return network
