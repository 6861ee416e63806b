"""One training step, whatever the number of workers: forward, gather, this worker's share of Eq. 4, backward, update.

The shares of all workers add up to the loss of the global batch. DDP averages the backbone's gradient and the gather's backward
multiplies by the number of workers, in that one place; heads live on their owner alone, outside DDP, and need no factor.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from taudl_dist.batches import Batch
from taudl_dist.config import Config
from taudl_dist.dataset import Dataset
from taudl_dist.losses import joint_share
from taudl_dist.model import CameraHeads, ReidModel, build_model, update_running_statistics
from taudl_dist.model.batch_norm import batch_norm_layers
from taudl_dist.parallel import assign_owners, clip_by_global_norm, gather
from taudl_dist.training.optimizer import Trained
from taudl_dist.training.world import World


def train_step(learner: Learner, batch: Batch, *, lr: float) -> torch.Tensor:
    """Moves all weights by one global batch; a collective.

    Returns:
        (2,) float64: this worker's shares of PCTD and CCTA (Eq. 2, Eq. 3); their sums over workers are the losses.
    """
    config, world = learner.config, learner.world
    with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        own_features = learner.network(batch.images.to(learner.dtype), batch.group_sizes)
    features = gather(own_features.to(learner.dtype), batch.rank_images)
    facts = gather(torch.stack([batch.cameras, batch.labels, batch.tracklets], dim=1), batch.rank_images).T.contiguous()
    first = sum(batch.rank_tracklets[: world.rank])
    share = joint_share(
        features,
        *facts,
        heads=learner.heads_of,
        own_tracklets=slice(first, first + batch.rank_tracklets[world.rank]),
        label_offsets=learner.label_offsets,
        config=config.loss,
    )
    share.loss.backward()
    if config.optim.clip_norm:
        backbone, heads = learner.backbone.parameters, learner.heads.parameters
        clip_by_global_norm(backbone, heads, config.optim.clip_norm, world_size=world.size)
    learner.backbone.step(lr=lr)
    learner.heads.step(lr=lr)
    update_running_statistics(learner.model, world_size=world.size)
    return torch.stack([share.pctd, share.ccta]).double()


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What one worker trains: the network all workers share, and the heads this one owns."""

    config: Config
    world: World
    model: ReidModel
    network: nn.Module
    """The model, wrapped for averaging its gradient where there are several workers."""
    heads_of: dict[int, tuple[torch.Tensor, torch.Tensor]]
    """Camera -> weight (M_t, D) and bias (M_t,) of the heads owned."""
    backbone: Trained
    heads: Trained
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
        counts, names = _label_counts(config, dataset)
        owners = assign_owners(list(counts.values()), world.size)
        owned = [camera for camera, owner in zip(counts, owners) if owner == world.rank]
        heads = CameraHeads(counts, model.feature_dim, seed=config.seed, owned=owned).to(world.device, dtype).mapping()
        return cls(
            config=config,
            world=world,
            model=model,
            network=_averaging(model, world) if world.size > 1 else model,
            heads_of=heads,
            backbone=Trained(_tensors(model), config.optim),
            heads=Trained(_named(heads, names), config.optim),
            label_offsets=torch.from_numpy(np.array(dataset.training.camera_offsets[:-1])).to(world.device),
            dtype=dtype,
        )


def _label_counts(config: Config, dataset: Dataset) -> tuple[dict[int, int], dict[int, str]]:
    """Labels of each head, and the head's name in a checkpoint: one per camera, or one for all (JCC, Table 4)."""
    if config.loss.joint_labels:
        return {0: len(dataset.training)}, {0: "all cameras"}
    sizes = np.diff(dataset.training.camera_offsets).tolist()
    return {camera: size for camera, size in enumerate(sizes) if size}, dict(enumerate(dataset.cameras))


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: named[name] for name in model.state_dict()}


def _named(heads: dict[int, tuple[torch.Tensor, torch.Tensor]], names: dict[int, str]) -> dict[str, torch.Tensor]:
    tensors = {}
    for camera, (weight, bias) in heads.items():
        tensors[f"{names[camera]}/weight"], tensors[f"{names[camera]}/bias"] = weight, bias
    return tensors


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
    for layer in batch_norm_layers(model):
        layer.pending = None
    return network
