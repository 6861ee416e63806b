"""Run folders as training leaves them, written in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.config import resolve
from taudl_dist.training.run_folder import open_run, write_json

STEPS = 40


@pytest.fixture
def write_run(tmp_path: Path):
    """Writes a run that is finished unless told otherwise; loss of step s is base - s / 100."""

    def write(
        name: str,
        *,
        steps: int = STEPS,
        base: float = 2.0,
        digest: str = "d" * 64,
        outcome: Any = "finished",
        **settings: Any,
    ) -> Path:
        out = tmp_path / name
        config = resolve({"data": "corpus", "out": str(out), "steps": STEPS, **settings})
        run = open_run(config, dataset_digest=digest, workers=(1, 1))
        lines = [
            {"step": s, "loss": base - s / 100, "pctd": base, "ccta": 1.0, "time": 1.7e9 + s} for s in range(steps)
        ]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.add_attempt("a1", after=None, world_size=1, from_step=0)
        if outcome == "finished":
            outcome = {"step": steps, "signal": 0, "model": {"sha256": f"weights of {name}"}}
        write_json(run.path / "run.json", {**run.info(), "outcome": outcome})
        return out

    return write


@pytest.fixture
def write_evaluation(tmp_path: Path):
    """Writes what `taudl evaluate --json` prints about a run."""

    def write(name: str, *, digest: str = "e" * 64, **numbers: float) -> Path:
        path = tmp_path / f"evaluation of {name}.json"
        about = {"model": f"runs/{name}", "model_digest": f"weights of {name}", "dataset_digest": digest}
        path.write_text(json.dumps({"rank1": 0.5, "mAP": 0.25, "num_query": 7, "rerank": False, **numbers, **about}))
        return path

    return write
