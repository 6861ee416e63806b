"""`taudl evaluate`: CMC, mAP and mINP of a model on a dataset's query and gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """CMC, mAP and mINP of a model on people it never saw, printed and logged to the run's MLflow run.

    Example: taudl evaluate --data DATASET --model RUN --baselines --report report.html
    """

    data: str
    """Dataset folder with query and gallery splits."""
    model: str
    """A run folder, a folder with model.safetensors, or that file."""
    baselines: bool = False
    """Also rank by a colour histogram and by the network as it was before training."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between features."""
    average_precision: Literal["step", "trapezoid"] = "step"
    """`step`, or the `trapezoid` of the MATLAB code of Market-1501 and MARS, which is lower."""
    frames: int = 0
    """Evenly spaced frames averaged per tracklet; 0 takes all."""
    report: str = ""
    """Write a self-contained HTML report with curves, rank lists and tracklets to this file."""
    json: bool = False
    """Print one JSON object (rates as fractions) instead of a table (percent)."""


def main(argv: Sequence[str]) -> None:
    """Ranks, prints, writes the report, logs."""
    args = parse(EvaluateArgs, argv, command="evaluate")
    from taudl_dist import tracking
    from taudl_dist.dataset import open_dataset
    from taudl_dist.evaluation.evaluate import Protocol, rank, read_probes, result, table, weights_path
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.report import write_report
    from taudl_dist.progress import log

    protocol = Protocol(metric=args.metric, average_precision=args.average_precision, frames=args.frames)
    run = weights_path(args.model).parent
    dataset = open_dataset(args.data)
    probes = read_probes(dataset)
    ranked = rank(dataset, probes, args.model, protocol=protocol, baselines=args.baselines, device=best_device())
    facts = result(ranked, dataset, args.model, protocol=protocol)
    print(json.dumps(facts) if args.json else table(facts))
    report = [Path(args.report)] if args.report else []
    for path in report:
        write_report(path, result=facts, ranked=ranked, probes=probes, protocol=protocol, dataset=dataset, run=run)
        log(f"report: {path}")
    tracking.log_evaluation(run, facts, dataset_digest=dataset.digest, artifacts=report)
