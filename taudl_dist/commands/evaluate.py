"""`taudl evaluate`: CMC, mAP and mINP of a model on a dataset's query and gallery, and what can be told without them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taudl_dist.commands import parse

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset
    from taudl_dist.evaluation import Protocol
    from taudl_dist.evaluation.label_free import LabelFree
    from taudl_dist.evaluation.report import Ranking


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """CMC, mAP and mINP of a model on people it never saw, printed and logged to the run's MLflow run.

    A dataset without query and gallery has no identities to rank by; then, or with --label-free, the training tracklets tell what can
    be told without labels: whether cameras agree, and whether features have collapsed.

    Several datasets and as many models, in the same order, give mean and deviation: the ten splits of PRID2011 and iLIDS-VID, or
    runs of several seeds.

    Example: taudl evaluate --data DATASET --model RUN --baselines --report report.html
    """

    data: tuple[str, ...]
    """Dataset folder, or s3:// or gs:// URI; or several with query and gallery splits, each with the model at the same place of --model."""
    model: tuple[str, ...]
    """A run folder, RUN/best of one whose checkpoints were evaluated, a folder with model.safetensors, or that file; or one for each
    dataset."""
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
    label_free: bool = False
    """Also report on the training tracklets, without labels; a dataset without query and gallery gets this alone."""
    tracklets: int = 0
    """Training tracklets of that report at most, evenly spaced within each camera; 0 takes all (10^5 take minutes beside embedding)."""
    report: str = ""
    """Write a self-contained HTML report with curves, rank lists, maps and tracklets to this file; its pictures go to MLflow too."""
    json: bool = False
    """Print one JSON object (rates as fractions) instead of a table (percent)."""


def main(argv: Sequence[str]) -> None:
    """Ranks, prints, writes the report, logs."""
    args = parse(EvaluateArgs, argv, command="evaluate")
    _check(args)
    from taudl_dist.commands.output import check_output
    from taudl_dist.evaluation import splits
    from taudl_dist.evaluation.evaluate import RATES

    if args.report:
        check_output(args.report, overwrite=True, flag="--report")
    results = [_evaluate(args, data, model) for data, model in zip(args.data, args.model)]
    if len(results) == 1:
        print(json.dumps(results[0]) if args.json else as_text(results[0]))
    else:
        combined = splits.combine(results, rates=list(RATES))
        print(json.dumps(combined) if args.json else splits.table(combined, rates=RATES))


def _check(args: EvaluateArgs) -> None:
    from taudl_dist.errors import UsageError

    if not args.data or len(args.data) != len(args.model):
        raise UsageError(
            f"--data names {len(args.data)} datasets and --model {len(args.model)} models; expected as many of each"
        )
    for flag, is_set in (("--report", args.report), ("--label-free", args.label_free)):
        if is_set and len(args.data) > 1:
            raise UsageError(f"{flag} is about one dataset and one model; leave it out, or evaluate one")
    if args.tracklets < 0:
        raise UsageError(f"--tracklets {args.tracklets}: expected 0 (all) or more")
    if args.report and args.rerank:
        raise UsageError("--report shows the ranking by the features' own distances; leave out --report or --rerank")


def as_text(result: Mapping[str, Any]) -> str:
    """The ranking, and the report without labels, as far as they are there."""
    from taudl_dist.evaluation import label_free
    from taudl_dist.evaluation.evaluate import table

    ranked = [table(result)] if "rank1" in result else []
    return "\n\n".join([*ranked, *([label_free.text(result)] if "label_free" in result else [])])


def _evaluate(args: EvaluateArgs, data: str, model: str) -> dict[str, Any]:
    from taudl_dist import tracking
    from taudl_dist.dataset import open_dataset
    from taudl_dist.errors import UsageError
    from taudl_dist.evaluation.evaluate import result, weights_path
    from taudl_dist.evaluation.report import write_report
    from taudl_dist.evaluation.splits import warn_of_another_split
    from taudl_dist.model import load_model
    from taudl_dist.progress import log
    from taudl_dist.training.saved import run_of

    run = weights_path(model).parent
    dataset = open_dataset(data)
    name, protocol = _protocol(args, dataset)
    warn_of_another_split(run, dataset.digest, name)
    is_labelled = any(dataset.info["splits"][split]["tracklets"] for split in ("query", "gallery"))
    if args.tracklets and is_labelled and not args.label_free:
        raise UsageError("--tracklets is about the report without labels: add --label-free, or leave it out")
    is_ranked = is_labelled or len(args.data) > 1  # of several, one without query and gallery is refused below
    if not is_ranked:
        _check_unlabelled(args, data)
    unlabelled = None
    if args.label_free or not is_ranked:
        unlabelled = _label_free(dataset, run, protocol, at_most=args.tracklets)
    ranking, facts = None, _origin(dataset, model, protocol)
    if is_ranked:
        ranking = _rank(dataset, model, protocol, baselines=args.baselines)
        facts = result(list(ranking.ranked), dataset, model, protocol=protocol, name=name)
    if unlabelled:
        facts |= unlabelled.as_result()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = []
        if args.report:
            pictures = write_report(
                args.report,
                result=facts,
                dataset=dataset,
                run=run,
                ranking=ranking,
                unlabelled=unlabelled,
                model=load_model(run),
            )
            log(f"report: {args.report}")
            artifacts = [Path(args.report), *_written(pictures, Path(folder))]
        step = json.loads((run / "model.json").read_text()).get("step", 0)
        tracking.log_evaluation(run_of(run), facts, dataset_digest=dataset.digest, step=step, artifacts=artifacts)
    return facts


def _label_free(dataset: Dataset, run: Path, protocol: Protocol, *, at_most: int) -> LabelFree:
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.label_free import label_free
    from taudl_dist.model import load_model

    device = best_device()
    network = load_model(run, device=device)
    frames, metric = protocol.frames, protocol.metric
    return label_free(network, dataset, frames=frames, metric=metric, at_most=at_most, device=device)


def _origin(dataset: Dataset, model: str, protocol: Protocol) -> dict[str, Any]:
    """What numbers without a ranking trace back to, by the names of `result`."""
    from taudl_dist.evaluation.evaluate import model_digest

    return {
        "dataset": dataset.location,
        "dataset_digest": dataset.digest,
        "model": model,
        "model_digest": model_digest(model),
        "frames": protocol.frames,
        "metric": protocol.metric,
    }


def _rank(dataset: Dataset, model: str, protocol: Protocol, *, baselines: bool) -> Ranking:
    from taudl_dist.evaluation.evaluate import rank
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.probes import read_probes
    from taudl_dist.evaluation.report import Ranking

    probes = read_probes(dataset, gallery=protocol.gallery)
    ranked = rank(dataset, probes, model, protocol=protocol, baselines=baselines, device=best_device())
    return Ranking(ranked=ranked, probes=probes, protocol=protocol)


def _written(pictures: Mapping[str, bytes], folder: Path) -> list[Path]:
    """PNG files by name, as files in a folder."""
    files = {folder / f"{name.replace(' ', '-')}.png": image for name, image in pictures.items()}
    for file, image in files.items():
        file.write_bytes(image)
    return list(files)


def _check_unlabelled(args: EvaluateArgs, data: str) -> None:
    """Refuses what only a ranking can honour.

    Raises:
        UsageError: naming the flag.
    """
    from taudl_dist.errors import UsageError

    asked = {
        "--baselines": args.baselines,
        "--rerank": args.rerank,
        "--average-precision": args.average_precision is not None,
        "--protocol": args.protocol != "auto",
    }
    flag = next((flag for flag, is_set in asked.items() if is_set), None)
    if flag:
        raise UsageError(
            f"{flag} is about a ranking, and {data} has no query and gallery to rank: leave it out, or shard with --truth, or import"
            " a benchmark with `taudl import`"
        )


def _protocol(args: EvaluateArgs, dataset: Dataset) -> tuple[str, Protocol]:
    """Its name, and the protocol with what the command line changes."""
    import dataclasses

    from taudl_dist.evaluation.protocols import BENCHMARKS, benchmark_of

    name = benchmark_of(dataset.info["settings"]) if args.protocol == "auto" else args.protocol
    asked = {"metric": args.metric, "average_precision": args.average_precision}
    changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return name, dataclasses.replace(BENCHMARKS[name].protocol, frames=args.frames, rerank=args.rerank, **changes)
