"""Images a second of training: the compute alone in several variants, the data path alone, and both together.

The compute is the real step with its losses read back, as the training loop does; the data path is the real loader on a dataset made
here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu_measure import Setting, Timing, autotuned, exact_float32, measure, tidy
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import make_batch
from taudl_dist.batches import Batch, BatchLoader, BatchPlan
from taudl_dist.batches.pipeline import STD
from taudl_dist.config import Config, merge, resolve
from taudl_dist.dataset import Dataset
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

COMPUTE, DATA, TOGETHER = "compute", "data", "together"
TOGETHER_GOAL = 0.95


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute a step."""

    name: str
    config: dict[str, Any]
    one_group: bool = False
    """All images as one group, which is torch's own batch norm: what grouping costs is the difference."""
    inside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    with_data: bool = False
    """Measure it together with the data path as well."""


BF16 = {"precision": "bf16"}
VARIANTS = (
    Variant(name="bf16", config=BF16, with_data=True),
    Variant(name="bf16, compiled", config=merge(BF16, {"model": {"compile": True}}), with_data=True),
    Variant(name="bf16, cuDNN autotuned", config=BF16, inside=autotuned),
    Variant(name="bf16, plain batch norm", config=BF16, one_group=True),
    Variant(name="bf16, 16 groups a camera", config=merge(BF16, {"batch": {"groups_per_camera": 16}})),
    Variant(name="bf16, batch norm sync", config=merge(BF16, {"model": {"batch_norm": "sync"}})),
    Variant(name="bf16, two passes", config=merge(BF16, {"parallel": {"two_pass": True}})),
    Variant(name="fp32, TF32 convolutions", config={}),
    Variant(name="fp32", config={}, inside=exact_float32),
)


@dataclass(kw_only=True)
class Speed:
    """Measures on one dataset of 6 cameras; remembers the times, for their ratios."""

    report: Report
    setting: Setting
    dataset: Dataset
    times: dict[str, Timing] = field(default_factory=dict)

    def run(self) -> None:
        """All variants, the data path, and the ratios."""
        no_dali = _missing("nvidia.dali", "DALI is not installed: pip install nvidia-dali-cuda130")
        if no_dali:
            self.report.skip(DATA, no_dali)
            self.report.skip(TOGETHER, no_dali)
        elif self.report.has_time(DATA):
            with self.report.attempt(DATA):
                self._data_alone()
        for variant in VARIANTS:
            name = f"{COMPUTE}: {variant.name}"
            no_compiler = self._no_compiler() if resolve(variant.config).model.compile else ""
            if no_compiler:
                self.report.skip(name, no_compiler)
            elif self.report.has_time(name):
                with self.report.attempt(name), variant.inside():
                    self._compute(variant, with_data=variant.with_data and not no_dali)
                tidy(self.setting.device)
        self._ratio("plain batch norm over groups, images/s", "bf16, plain batch norm", "bf16")
        self._ratio("16 groups a camera over 1, images/s", "bf16, 16 groups a camera", "bf16")
        self._ratio("compiled over not, images/s", "bf16, compiled", "bf16")

    def _compute(self, variant: Variant, *, with_data: bool) -> None:
        config = self._config(variant.config)
        plan = BatchPlan(self.dataset, config)
        learner = Learner.build(config, self.dataset, World(device=self.setting.device))
        batch = make_batch(plan, self.setting.device)
        if variant.one_group:
            batch = dataclasses.replace(batch, group_sizes=(len(batch.images),))
        timing = measure(lambda: _step(learner, batch), self.setting)
        self.times[variant.name] = timing
        self._add(COMPUTE, variant.name, timing)
        if timing.peak_bytes is not None:
            self.report.add(part=COMPUTE, name=f"{variant.name}: peak memory", value=timing.peak_bytes / 1e9, unit="GB")
        if with_data:
            with self._loaded(plan) as batches:
                together = measure(lambda: _step(learner, next(batches)), self.setting)
            self._add(TOGETHER, variant.name, together)
            share = timing.seconds / together.seconds
            what = f"{variant.name}: together over compute alone"
            self.report.add(part=TOGETHER, name=what, value=share, rule="goal >=", limit=TOGETHER_GOAL)

    def _data_alone(self) -> None:
        plan = BatchPlan(self.dataset, self._config({}))
        with self._loaded(plan) as batches:
            self._add(DATA, "read, decode, augment", measure(lambda: next(batches), self.setting))
        if self.setting.device.type == "cuda":
            images = [self._loader(plan, device).load(0).images.cpu() for device in (self.setting.device, "cpu")]
            levels = 255 * ((images[0] - images[1]) * torch.tensor(STD).view(3, 1, 1)).abs().mean().item()
            what = "pixels decoded by the GPU and by the CPU, mean difference"
            self.report.add(part=DATA, name=what, value=levels, unit="of 255", rule="goal <=", limit=2.0)

    @contextlib.contextmanager
    def _loaded(self, plan: BatchPlan) -> Iterator[Iterator[Batch]]:
        loader = self._loader(plan, self.setting.device)
        try:
            yield iter(loader)
        finally:
            loader.close()

    def _loader(self, plan: BatchPlan, device: torch.device | str) -> BatchLoader:
        return BatchLoader(self.dataset, plan, rank=0, world_size=1, start=0, stop=2**31, device=device)

    def _config(self, settings: dict[str, Any]) -> Config:
        size = {"images": self.setting.images, "height": self.setting.height, "width": self.setting.width}
        base = {"model": {"name": self.setting.model}, "batch": size}
        return resolve(merge(base, _fitting(settings, self.setting)))

    def _add(self, part: str, name: str, timing: Timing) -> None:
        note = f"{1e3 * timing.seconds:.1f} ms a step, windows spread over {100 * timing.spread:.0f} %"
        value = self.setting.images / timing.seconds
        self.report.add(part=part, name=name, value=value, unit="images/s", note=note)

    def _ratio(self, name: str, above: str, below: str) -> None:
        if above in self.times and below in self.times:
            value = self.times[below].seconds / self.times[above].seconds
            self.report.add(part=COMPUTE, name=name, value=value)

    def _no_compiler(self) -> str:
        if not any(map(shutil.which, ("cc", "gcc", "clang"))):
            return "torch.compile needs a C compiler, and none of cc, gcc, clang is on the path"
        return _missing("triton", "torch.compile needs triton on a GPU") if self.setting.device.type == "cuda" else ""


def _step(learner: Learner, batch: Batch) -> list[float]:
    return train_step(learner, batch, lr=1e-4).tolist()


def _fitting(settings: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """A small batch has two tracklets a camera, so two groups at most."""
    if "batch" in settings and setting.images < Setting.images:
        return merge(settings, {"batch": {"groups_per_camera": 2}})
    return settings


def _missing(module: str, reason: str) -> str:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent package
        found = None
    return "" if found else reason
