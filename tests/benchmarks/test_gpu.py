"""The GPU benchmark runs whole on a CPU in its small form, needs few packages, and fails where it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_speed
from benchmarks.gpu_losses import _extrapolate
from benchmarks.gpu_measure import Setting, exact_float32
from benchmarks.gpu_report import Report
from benchmarks.gpu_speed import DATA, TOGETHER, VARIANTS, Speed

ROOT = Path(__file__).parents[2]
NOT_NEEDED = "ray mlflow webdataset safetensors tyro yaml nvidia.dali av onnxruntime trackers matplotlib sklearn psutil"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny work on several threads waits for them, on a busy machine six times longer than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_part_runs(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    with torch.compiler.set_stance("force_eager"):  # compiling takes longer than all the rest
        assert gpu.main(["--device", device, "--small", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["broken"] == []
    assert [entry["name"] for entry in found["skipped"]] == ["ccta: 24 tracklets: loop"]
    assert {row["part"] for row in found["rows"]} == {"agreement", "compute", "data", "together", "ccta", "heads"}
    names = {row["name"] for row in found["rows"]}
    assert {variant.name for variant in VARIANTS} <= names
    assert {"bf16, compiled: together over compute alone", "compiled over not, images/s"} <= names
    assert all(row["value"] >= 0 for row in found["rows"])
    assert "gradient of a small step, fp64" in capsys.readouterr().out


@pytest.mark.slow
def test_it_needs_few_packages(tmp_path: Path) -> None:
    """A GPU machine has torch, torchvision, numpy and pyarrow; without DALI the rest still runs."""
    script = f"""
import sys
sys.modules.update(dict.fromkeys({NOT_NEEDED.split()!r}))  # None: as if not installed
from benchmarks import gpu, gpu_speed
gpu_speed.VARIANTS = gpu_speed.VARIANTS[:1]
sys.exit(gpu.main(["--device", "cpu", "--small", "--parts", "compute", "heads", "--out", {str(tmp_path / "gpu.json")!r}]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    skipped = {entry["name"]: entry["reason"] for entry in json.loads((tmp_path / "gpu.json").read_text())["skipped"]}
    assert "DALI is not installed" in skipped[DATA]
    assert "DALI is not installed" in skipped[TOGETHER]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--device", "gpu"], "--device gpu: expected cuda"),
        (["--device", "meta"], "--device meta: expected cuda"),
        (["--device", "cpu", "--out", "/no/such/folder/gpu.json"], "make it first"),
        pytest.param(
            [],
            "sees no GPU here",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(),
                reason="what is refused is --device cuda on a machine without a GPU; this one has one",
            ),
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(arguments) == 2
    error = capsys.readouterr().err
    assert found in error
    assert len(error.splitlines()) == 1


def report(**settings: object) -> Report:
    return Report(**({"facts": {}, "limit_s": 60.0} | settings))


@pytest.mark.parametrize(
    ("value", "rule", "exit_code", "verdict"),
    [
        (1.0, "<=", 0, "<= 1 ok"),
        (1.1, "<=", 1, "<= 1 FAILED"),
        (float("nan"), "<=", 1, "<= 1 FAILED"),
        (1.1, "goal <=", 0, "goal <= 1 missed"),
        (1.1, "goal >=", 0, "goal >= 1 met"),
    ],
)
def test_a_failed_check_decides_the_exit_code(value: float, rule: str, exit_code: int, verdict: str) -> None:
    found = report()
    found.add(part="agreement", name="x", value=value, rule=rule, limit=1.0)
    assert found.exit_code == exit_code
    assert verdict in found.table()


def test_a_broken_part_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(out=tmp_path / "x.json")
    with found.attempt("one"):
        raise RuntimeError("no kernel\nmore")
    with found.attempt("two"):
        found.add(part="p", name="x", value=3.0)
    assert found.exit_code == 1
    assert "BROKEN   one: RuntimeError: no kernel\n" in found.table()
    assert "Traceback" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "x.json").read_text())["rows"]) == 1


def test_what_does_not_fit_or_comes_too_late_is_skipped() -> None:
    found = report(limit_s=0.0)
    with found.attempt("large"):
        raise torch.OutOfMemoryError("tried to allocate 1 TB")
    assert not found.has_time("late")
    assert found.exit_code == 0
    assert [name for name, _ in found.skipped] == ["large", "late"]


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report()
    monkeypatch.setattr(gpu_speed, "VARIANTS", VARIANTS[1:2])
    monkeypatch.setattr(gpu_speed.shutil, "which", lambda _: None)
    monkeypatch.setattr(Speed, "_data_alone", lambda _: None)
    Speed(report=found, setting=Setting.small(torch.device("cpu")), dataset=None).run()
    assert [name for name, _ in found.skipped] == ["compute: bf16, compiled"]


@pytest.mark.parametrize(
    ("loops", "expected"),
    [
        ([], 0.0),
        ([(10, 1.0)], 4.0),  # in proportion, until two sizes tell more
        ([(10, 1.0), (20, 4.0)], 16.0),  # quadratic
        ([(10, 1.0), (20, 1.0)], 2.0),  # never less than in proportion
    ],
)
def test_the_loop_is_extrapolated(loops: list[tuple[int, float]], expected: float) -> None:
    assert _extrapolate(loops, 40) == pytest.approx(expected)


def test_float32_is_exact_only_inside() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
