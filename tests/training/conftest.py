"""A tiny dataset of three cameras, its settings, and groups of real processes as torchrun would start them."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.training import checkpoint

FLAGS = [
    "--model",
    "small",
    "--model.feature-dim",
    "16",
    "--batch.images",
    "24",
    "--batch.frames",
    "2",
    "--batch.height",
    "32",
    "--batch.width",
    "16",
    "--steps",
    "12",
    "--checkpoint.every",
    "4",
    "--tracking.uri",
    "none",
    "--tracking.every",
    "5",
    "--seed",
    "1",
]
"""Three cameras x four tracklets x two frames a step, a fraction of a second in all."""


def tiny_dataset(folder: Path, sizes: Sequence[int] = (9, 5, 6), *, spoil: str = "", num_probes: int = 0) -> Path:
    """`sizes` tracklets per camera of four images each; the tracklet named `spoil` is no JPEG; `num_probes` queries, each with a match."""
    rng = np.random.default_rng(3)

    def jpeg(name: str) -> bytes:
        buffer = io.BytesIO()
        coarse = rng.integers(0, 256, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 48), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        return data[:300] + b"spoiled" if name == spoil else data

    tracklets = [
        ImportTracklet(
            camera=f"cam{camera + 1}",
            split="train",
            name=f"{camera}-{number}",
            frames=[(i, jpeg(f"{camera}-{number}")) for i in range(4)],
        )
        for camera, size in enumerate(sizes)
        for number in range(size)
    ]
    tracklets += [
        ImportTracklet(
            camera=camera, split=split, name=f"{split}-{person}", frames=[(0, jpeg(split))], person_id=person + 1
        )
        for camera, split in (("cam1", "query"), ("cam2", "gallery"))
        for person in range(num_probes)
    ]
    return write_dataset(folder, tracklets, settings={}, source={})


def state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: weights, running statistics, moments; those of the heads as <camera>/<name>."""
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    tensors = load_file(newest / "backbone.safetensors")
    for path in sorted(newest.glob("heads-*.safetensors")):
        packed = load_file(path)
        with safe_open(path, framework="pt") as file:
            table = json.loads(file.metadata()["cameras"])
        first = 0
        for position, (camera, count) in enumerate(table):
            for name, tensor in packed.items():
                tensors[f"{camera}/{name}"] = (
                    tensor[position] if name.endswith(":step") else tensor[first : first + count]
                )
            first += count
    return tensors


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same tensors, bit for bit."""
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def start(*words: Any) -> subprocess.Popen[str]:
    """`taudl train WORDS` in a process of its own."""
    command = [sys.executable, "-m", "taudl_dist.cli", "train", *map(str, words)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.jsonl holds that step."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) > step:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"step {step} was not reached: {process.communicate()[1]}")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture
def train_group() -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Runs `taudl train WORDS` in `size` processes that form a gloo group, as torchrun would; one result a rank."""

    def run(size: int, words: Sequence[Any]) -> list[subprocess.CompletedProcess[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [
            sys.executable,
            "-W",
            "error::DeprecationWarning:taudl_dist",
            "-m",
            "taudl_dist.cli",
            "train",
            *map(str, words),
        ]
        group = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        started = [
            subprocess.Popen(
                command,
                env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank in range(size)
        ]
        results = []
        for process in started:
            out, err = process.communicate(timeout=300)
            results.append(subprocess.CompletedProcess(command, process.returncode, out, err))
        return results

    return run
