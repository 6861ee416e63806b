"""Whether a device computes what the CPU computes: losses, batch norm, and the gradient of a whole training step.

Every number is ||device - reference|| / ||reference|| against the CPU in float64. A whole network multiplies rounding, so a step is held
against the rounding of the CPU's own float32 on the same step, measured beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from benchmarks.gpu_dataset import make_dataset
from benchmarks.gpu_measure import Setting, exact_float32
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import make_batch
from taudl_dist.batches import BatchPlan
from taudl_dist.config import Config, merge, resolve
from taudl_dist.dataset import Dataset
from taudl_dist.losses import ccta_loss, pctd_loss
from taudl_dist.model.batch_norm import BatchLayout, GroupBatchNorm, set_group_sizes, update_running_statistics
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

CPU = torch.device("cpu")
PART = "agreement"
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
NAMES = {torch.float64: "fp64", torch.float32: "fp32"}
_UNITS = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps

Numbers = dict[str, torch.Tensor]


def run(report: Report, setting: Setting) -> None:
    """All checks; float32 without TF32, which torch allows in convolutions by default."""
    device = setting.device
    with exact_float32():
        for name, compute in (("losses", losses), ("batch norm", batch_norm)):
            with report.attempt(f"{PART}: {name}"):
                reference = compute(CPU, torch.float64)
                for dtype, bound in BOUNDS.items():
                    difference = largest_difference(compute(device, dtype), reference)
                    what = f"{name}, values and gradients, {NAMES[dtype]}"
                    report.add(part=PART, name=what, value=difference, rule="<=", limit=bound)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset", cameras=6, tracklets=4, frames=4, heights=(0, 0))
        for name in dict.fromkeys(("small", setting.model)):
            with report.attempt(f"{PART}: a step of {name}"):
                _training_step(report, device, dataset, name)


def losses(device: torch.device, dtype: torch.dtype) -> Numbers:
    """PCTD and CCTA with their gradients; among the tracklets two are equal and two nearly so."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(96, 512, generator=generator, dtype=torch.float64).relu() * 0.4
    features[1], features[2] = features[0], features[0] + 1e-3
    cameras, labels = torch.arange(96) % 6, torch.randint(50, (96,), generator=generator)
    weights = 0.05 * torch.randn(6, 50, 512, generator=generator, dtype=torch.float64)
    cameras, labels = cameras.to(device), labels.to(device)
    numbers: Numbers = {}

    x, heads = (leaf.to(device, dtype).requires_grad_() for leaf in (features, weights))
    loss = pctd_loss(x, cameras, labels, {camera: (heads[camera], None) for camera in range(6)})
    numbers |= _named("pctd", (loss, *torch.autograd.grad(loss, (x, heads))))
    for settings in ({}, {"squared": True}, {"detach_numerator": True}):
        x = features.to(device, dtype).requires_grad_()
        loss = ccta_loss(x, cameras, **settings)
        numbers |= _named(f"ccta {settings}", (loss, *torch.autograd.grad(loss, x)))
    return numbers


def batch_norm(device: torch.device, dtype: torch.dtype) -> Numbers:
    """Large, small and unequal groups, and one statistic over all: output, gradients, running statistics."""
    numbers: Numbers = {}
    for mode, sizes in (("group", (40, 40)), ("group", (4,) * 12), ("group", (5, 3, 7)), ("sync", (16,))):
        generator = torch.Generator().manual_seed(1)
        x, slope = torch.randn(2, sum(sizes), 32, 16, 8, generator=generator, dtype=torch.float64)
        layer = GroupBatchNorm(32, BatchLayout(mode=mode)).to(device, dtype).train()
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, 32))
            layer.bias.copy_(torch.linspace(-1, 1, 32))
        set_group_sizes(layer.layout, sizes, sum(sizes))
        x = (3 * x + 5).to(device, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        output = layer(x)
        output.backward(slope.to(device, dtype))
        update_running_statistics(layer)
        gradients = (x.grad, layer.weight.grad, layer.bias.grad)
        numbers |= _named(f"{mode} {sizes}", (output, *gradients, layer.running_mean, layer.running_var))
    return numbers


def _training_step(report: Report, device: torch.device, dataset: Dataset, name: str) -> None:
    """Rows for one network; its own rounding on the CPU is the measure for the device's."""
    base = {
        "model": {"name": name},
        "batch": {"images": 48, "frames": 4, "height": 64, "width": 32},
        "optim": {"weight_decay": 0.0},
    }

    def step(where: torch.device, precision: str, **settings: Any) -> Numbers:
        return gradient(resolve(merge(base, {"precision": precision, **settings})), dataset, where)

    def add(what: str, value: float, limit: float | None = None, note: str = "") -> None:
        rule = "" if limit is None else "<="
        report.add(part=PART, name=f"gradient of a {name} step, {what}", value=value, rule=rule, limit=limit, note=note)

    with exact_float32():
        reference, single, half = (step(CPU, precision) for precision in ("fp64", "fp32", "bf16"))
        control, half_control = whole_difference(single, reference), whole_difference(half, single)
        double_bound = max(1e-12, 20 * control * _UNITS)
        note = f"the CPU's own fp32: {control:.1e}"
        add("fp64", whole_difference(step(device, "fp64"), reference), double_bound)
        ours = step(device, "fp32")
        add("fp32", whole_difference(ours, reference), max(1e-5, 5 * control), note)
        note = f"the CPU's own bf16: {half_control:.1e}"
        add("bf16 against fp32", whole_difference(step(device, "bf16"), ours), max(1e-2, 2 * half_control), note)
        sync = {"model": {"batch_norm": "sync"}}
        difference = whole_difference(step(device, "fp64", **sync), step(CPU, "fp64", **sync))
        add("fp64, batch norm sync", difference, double_bound)
    if device.type == "cuda":
        add("fp32 with TF32 convolutions", whole_difference(step(device, "fp32"), reference), note="torch's default")


def gradient(config: Config, dataset: Dataset, device: torch.device) -> Numbers:
    """The gradient of one step of the real training code, read from Adam's first moment: after one step that is 0.1 of it."""
    learner = Learner.build(config, dataset, World(device=device))
    for module in learner.model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)  # as it comes, ResNet-50 multiplies rounding by 10^5
    batch = make_batch(BatchPlan(dataset, config), device, dtype=torch.float64)
    train_step(learner, batch, lr=1e-3)
    states = {**learner.backbone.state(), **learner.heads.state()[0]}
    return {name: value.detach().cpu().double() for name, value in states.items() if name.endswith(":exp_avg")}


def whole_difference(ours: Numbers, reference: Numbers) -> float:
    """Of all tensors as one vector."""
    assert ours.keys() == reference.keys()
    squares = sum((ours[name] - reference[name]).square().sum() for name in reference)
    return float((squares / sum(value.square().sum() for value in reference.values())).sqrt())


def largest_difference(ours: Numbers, reference: Numbers) -> float:
    """Of the tensor that differs most."""
    return max(whole_difference({name: ours[name]}, {name: reference[name]}) for name in reference)


def _named(name: str, tensors: tuple[torch.Tensor, ...]) -> Mapping[str, torch.Tensor]:
    return {f"{name} {number}": tensor.detach().cpu().double() for number, tensor in enumerate(tensors)}
