"""How the GPU benchmark measures: its sizes, the clock, peak memory, and the arithmetic of float32."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how large."""

    device: torch.device
    model: str = "resnet50"
    images: int = 384
    height: int = 256
    width: int = 128
    image_heights: tuple[int, int] = (128, 384)
    """Of the encoded images, in pixels."""
    warmup: int = 8
    """Steps before the clock starts."""
    steps: int = 8
    """Steps of a window, of which the median counts."""
    windows: int = 5
    ccta_tracklets: tuple[int, ...] = (96, 1536, 16384)
    loop_limit_s: float = 45.0
    """Longest a single run of the Python loop may take."""
    few_cameras: int = 50
    many_cameras: int = 5000

    @classmethod
    def small(cls, device: torch.device) -> Setting:
        """Every part in seconds, on a CPU too; its numbers mean nothing."""
        return cls(
            device=device, model="small", images=48, height=32, width=16, image_heights=(24, 48), warmup=1, steps=1,
            windows=2, ccta_tracklets=(12, 24), loop_limit_s=0.0, few_cameras=12, many_cameras=60,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one step."""

    seconds: float
    """Median over windows."""
    spread: float
    """(slowest - fastest window) / median."""
    peak_bytes: int | None
    """Most memory allocated at a time, everything that lives included; None on a CPU."""


def measure(step: Callable[[], Any], setting: Setting, *, repeats: int | None = None) -> Timing:
    """Times a step as it repeats; after a warm-up, in windows that begin and end with an idle device.

    Args:
        repeats: windows of a single step, and no warm-up, for what takes long; None does as the setting says.
    """
    device, times = setting.device, []
    steps, windows = (1, repeats) if repeats else (setting.steps, setting.windows)
    for _ in range(0 if repeats else setting.warmup):
        step()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(windows):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        times.append((time.perf_counter() - start) / steps)
    median = statistics.median(times)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Timing(seconds=median, spread=(max(times) - min(times)) / median, peak_bytes=peak)


def wait(device: torch.device) -> None:
    """Until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tidy(device: torch.device) -> None:
    """Gives memory back, and forgets compiled code, so that a variant does not pay for the one before."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 products have 24-bit factors. By torch's default cuDNN's convolutions round them to TF32's 11 bits."""
    # not the newer fp32_precision: where it is set, torch 2.15 refuses to answer allow_tf32, which its own compiler asks for
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before):
            kind.allow_tf32 = allowed


@contextlib.contextmanager
def autotuned() -> Iterator[None]:
    """Inside, cuDNN tries its algorithms for each new shape and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
