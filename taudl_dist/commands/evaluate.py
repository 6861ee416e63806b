"""`taudl evaluate`: CMC, mAP and mINP of a model on a dataset's query and gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taudl_dist.commands import parse

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset
    from taudl_dist.evaluation import Protocol


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """CMC, mAP and mINP of a model on people it never saw, printed and logged to the run's MLflow run.

    Several datasets and as many models, in the same order, give mean and deviation: the ten splits of PRID2011 and iLIDS-VID, or
    runs of several seeds.

    Example: taudl evaluate --data DATASET --model RUN --baselines --report report.html
    """

    data: tuple[str, ...]
    """Dataset folder, or s3:// or gs:// URI, with query and gallery splits; or several, each with the model at the same place of --model."""
    model: tuple[str, ...]
    """A run folder, a folder with model.safetensors, or that file; or one for each dataset."""
    protocol: Literal[
        "auto",
        "standard",
        "market1501",
        "dukemtmcreid",
        "cuhk03",
        "cuhk03-classic",
        "prid2011",
        "ilids-vid",
        "mars",
        "mars-official",
    ] = "auto"
    """Protocol of a benchmark; `auto` is that of the dataset, and `standard` (the rule of Market-1501) for any other data."""
    baselines: bool = False
    """Also rank by a colour histogram and by the network as it was before training."""
    metric: Literal["euclidean", "cosine"] | None = None
    """Distance between features, if not the protocol's."""
    average_precision: Literal["step", "trapezoid"] | None = None
    """`step`, or the `trapezoid` of the MATLAB code of Market-1501 and MARS, which is lower; if not the protocol's."""
    frames: int = 0
    """Evenly spaced frames pooled per tracklet; 0 takes all."""
    rerank: bool = False
    """k-reciprocal re-ranking; its time grows with the square of queries and gallery."""
    report: str = ""
    """Write a self-contained HTML report with curves, rank lists and tracklets to this file."""
    json: bool = False
    """Print one JSON object (rates as fractions) instead of a table (percent)."""


def main(argv: Sequence[str]) -> None:
    """Ranks, prints, writes the report, logs."""
    args = parse(EvaluateArgs, argv, command="evaluate")
    _check(args)
    from taudl_dist.evaluation import splits
    from taudl_dist.evaluation.evaluate import RATES, table

    results = [_evaluate(args, data, model) for data, model in zip(args.data, args.model)]
    if len(results) == 1:
        print(json.dumps(results[0]) if args.json else table(results[0]))
    else:
        combined = splits.combine(results, rates=list(RATES))
        print(json.dumps(combined) if args.json else splits.table(combined, rates=RATES))


def _check(args: EvaluateArgs) -> None:
    from taudl_dist.errors import UsageError

    if not args.data or len(args.data) != len(args.model):
        raise UsageError(
            f"--data names {len(args.data)} datasets and --model {len(args.model)} models; expected as many of each"
        )
    if args.report and len(args.data) > 1:
        raise UsageError("--report is about one dataset and one model; leave it out, or evaluate one")
    if args.report and args.rerank:
        raise UsageError("--report shows the ranking by the features' own distances; leave out --report or --rerank")


def _evaluate(args: EvaluateArgs, data: str, model: str) -> dict[str, Any]:
    from taudl_dist import tracking
    from taudl_dist.dataset import open_dataset
    from taudl_dist.evaluation.evaluate import rank, result, weights_path
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.probes import read_probes
    from taudl_dist.evaluation.report import write_report
    from taudl_dist.evaluation.splits import warn_of_another_split
    from taudl_dist.progress import log

    run = weights_path(model).parent
    dataset = open_dataset(data)
    name, protocol = _protocol(args, dataset)
    warn_of_another_split(run, dataset.digest, name)
    probes = read_probes(dataset, gallery=protocol.gallery)
    ranked = rank(dataset, probes, model, protocol=protocol, baselines=args.baselines, device=best_device())
    facts = result(ranked, dataset, model, protocol=protocol, name=name)
    report = [Path(args.report)] if args.report else []
    for path in report:
        write_report(path, result=facts, ranked=ranked, probes=probes, protocol=protocol, dataset=dataset, run=run)
        log(f"report: {path}")
    tracking.log_evaluation(run, facts, dataset_digest=dataset.digest, artifacts=report)
    return facts


def _protocol(args: EvaluateArgs, dataset: Dataset) -> tuple[str, Protocol]:
    """Its name, and the protocol with what the command line changes."""
    import dataclasses

    from taudl_dist.evaluation.protocols import BENCHMARKS, benchmark_of

    name = benchmark_of(dataset.info["settings"]) if args.protocol == "auto" else args.protocol
    asked = {"metric": args.metric, "average_precision": args.average_precision}
    changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return name, dataclasses.replace(BENCHMARKS[name].protocol, frames=args.frames, rerank=args.rerank, **changes)
