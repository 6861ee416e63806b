"""Experiments without files: datasets that have names, digests and settings alone, and outcomes with numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taudl_dist.reproduce import TABLES, Experiment, Outcome
from taudl_dist.reproduce.experiment import Job

RATES = ("rank1", "rank5", "rank10", "rank20", "mAP")


def fake_dataset(name: str, *, query: int = 3, **settings: Any) -> Any:
    """A dataset as an experiment sees it."""
    counts = {split: {"tracklets": number} for split, number in (("train", 9), ("query", query), ("gallery", 4))}
    return SimpleNamespace(
        name=name,
        location=f"/data/{name}",
        digest=f"digest of {name} {settings}",
        info={"settings": settings, "splits": counts},
    )


@pytest.fixture
def make_experiment(tmp_path: Path):
    """An experiment on datasets given as such, or by their names."""

    def make(table: str, *datasets: Any, rows: tuple[str, ...] = (), seeds: tuple[int, ...] = (0,), **settings: Any):
        opened = [fake_dataset(data) if isinstance(data, str) else data for data in datasets or ("corpus",)]
        return Experiment(
            table=TABLES[table],
            rows=TABLES[table].select(rows),
            datasets=tuple(opened),
            seeds=seeds,
            out=tmp_path / "out",
            settings=settings,
        )

    return make


def outcome(job: Job, value: float | None) -> Outcome:
    """A job that came to `value` in all rates, a fraction, or failed."""
    if value is None:
        return Outcome(job=job, run="", error="no luck")
    return Outcome(job=job, run=f"runs/{job.row.name}", evaluation=dict.fromkeys(RATES, value), code="abc")


@pytest.fixture
def outcomes_of():
    """Outcomes of an experiment's jobs, from the value of each."""
    return lambda experiment, value_of: [outcome(job, value_of(job)) for job in experiment.jobs]
