"""How well the numbers of the report without labels follow rank-1 and mAP, where identities are known: correlations.

Runs of several recipes, rates and seeds are trained on a dataset with query and gallery; each checkpoint is ranked, and reported on
without labels from its training tracklets alone. Within a run the correlation is over its checkpoints (which one to keep?), across
runs over their last ones (which recipe?). What is done in the folder is not done again.

    taudl synth --out world --seed 7 --cameras 4 --people 200 --seconds 340       # the world of `taudl demo`
    taudl shard --videos world/videos --tracks world/tracks --out dataset --interval-s auto --min-distance 40
    OMP_NUM_THREADS=1 python -m benchmarks.label_free --data dataset --out runs [--only best-1] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

RUNS = {
    "best-1": ["--seed", "1"],
    "best-2": ["--seed", "2"],
    "best-3": ["--seed", "3"],
    "pctd-1": ["--seed", "1", "--recipe", "pctd"],
    "pctd-2": ["--seed", "2", "--recipe", "pctd"],
    "jcc-1": ["--seed", "1", "--recipe", "jcc"],
    "paper-1": ["--seed", "1", "--recipe", "paper"],
    "paper-2": ["--seed", "2", "--recipe", "paper"],
    "best-fast-1": ["--seed", "1", "--optim.lr", "1e-2"],
    "best-slow-1": ["--seed", "1", "--optim.lr", "1e-4"],
}
"""Settings by the name of a run; those below are common to all."""
COMMON = ["--model", "small", "--batch.images", "64", "--batch.height", "64", "--batch.width", "32", "--optim.lr", "1e-3",
          "--optim.decay-start", "0.75", "--launcher", "process", "--tracking.uri", "none", "--checkpoint.keep", "1000"]  # fmt: skip
RANKED_FRAMES, FRAMES = 2, 4
"""Frames of a tracklet where it is ranked, and where it is reported on: twice as many, as halves are compared."""
TRUTHS = ("rank1", "mAP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--only", choices=RUNS, nargs="*", default=list(RUNS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    points = []
    for name in args.only:
        run = args.out / name
        if not (run / "model.safetensors").is_file():
            train(run, args.data, name, steps=args.steps, every=args.every)
        points += measured(run, args.data)
    rows = correlations(points)
    print(
        json.dumps(json.loads(json.dumps(rows), parse_constant=lambda _: None)) if args.json else markdown(rows, points)
    )


def train(run: Path, data: str, name: str, *, steps: int, every: int) -> None:
    settings = ["--steps", str(steps), "--checkpoint.every", str(every), *RUNS[name]]
    resume = ["--resume"] if run.exists() else []
    command = [sys.executable, "-m", "taudl_dist.cli", "train", "--data", data, "--out", str(run), *COMMON, *settings]
    subprocess.run([*command, *resume], check=True)


def measured(run: Path, data: str) -> list[dict[str, Any]]:
    """Every checkpoint of a run, and the network before its first step: what ranking and the report without labels say."""
    file = run / "label_free.jsonl"
    points = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {point["step"] for point in points}
    folders = {int(path.name.split("-")[1]): path for path in (run / "checkpoints").glob("step-*")}
    for step, folder in sorted({0: None, **folders}.items()):
        if step not in done:
            points.append({"run": run.name, "step": step, **measure(run, folder, data)})
            with file.open("a") as stream:
                stream.write(json.dumps(points[-1]) + "\n")
    return sorted(points, key=lambda point: point["step"])


def measure(run: Path, checkpoint: Path | None, data: str) -> dict[str, float]:
    import pyarrow as pa
    from safetensors.torch import load_file

    from taudl_dist.dataset import open_dataset
    from taudl_dist.evaluation.baselines import untrained_model
    from taudl_dist.evaluation.evaluate import numbers, rank_features
    from taudl_dist.evaluation.features import embed
    from taudl_dist.evaluation.label_free import label_free
    from taudl_dist.evaluation.probes import read_probes
    from taudl_dist.evaluation.protocols import Protocol

    model, dataset = untrained_model(run), open_dataset(data)
    if checkpoint:
        state = load_file(checkpoint / "backbone.safetensors")
        model.load_state_dict({key: value for key, value in state.items() if ":" not in key})
    probes = read_probes(dataset)
    features = embed(model, dataset, pa.concat_tables([probes.query, probes.gallery]), frames=RANKED_FRAMES)
    ranked = rank_features(run.name, features, probes, protocol=Protocol(frames=RANKED_FRAMES))
    return {**numbers(ranked.metrics), **label_free(model, dataset, frames=FRAMES).metrics}


def correlations(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each metric: Spearman's and Pearson's coefficients with rank-1 and mAP, within runs and across their ends."""
    from taudl_dist.evaluation.label_free import MEANINGS

    runs = [[point for point in points if point["run"] == name] for name in dict.fromkeys(p["run"] for p in points)]
    ends = [run[-1] for run in runs]
    rows = []
    for metric in MEANINGS:
        row: dict[str, Any] = {"metric": metric}
        for truth in TRUTHS:
            within = [pair for run in runs if not np.isnan(pair := coefficients(run, metric, truth)).any()]
            row[truth] = {
                "within": np.mean(within, axis=0).tolist() if within else [float("nan")] * 2,
                "worst": np.min(within, axis=0).tolist() if within else [float("nan")] * 2,
                "across": coefficients(ends, metric, truth),
                "all": coefficients(points, metric, truth),
            }
        rows.append(row)
    return rows


def coefficients(points: list[dict[str, Any]], metric: str, truth: str) -> list[float]:
    """Spearman's and Pearson's; NaN where one side does not vary."""
    from scipy.stats import rankdata

    known = np.array([(point[metric], point[truth]) for point in points if metric in point], float).reshape(-1, 2)
    if len(known) < 3 or (np.ptp(known, axis=0) == 0).any():
        return [float("nan")] * 2
    return [float(np.corrcoef(*values)[0, 1]) for values in (rankdata(known, axis=0).T, known.T)]


def markdown(rows: list[dict[str, Any]], points: list[dict[str, Any]]) -> str:
    """The ends of the runs, then the correlations with both truths."""
    from taudl_dist.evaluation.label_free import shown

    names = [row["metric"] for row in rows]
    ends = {point["run"]: point for point in points}
    lines = ["| run, last step | R1 | mAP | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for name, end in ends.items():
        numbers = " | ".join(shown(metric, end[metric]) if metric in end else "-" for metric in names)
        lines.append(f"| {name}, {end['step']} | {100 * end['rank1']:.1f} | {100 * end['mAP']:.1f} | {numbers} |")
    for truth in TRUTHS:
        columns = ("within", "worst", "across", "all")
        lines += ["", f"| {truth} | " + " | ".join(f"{c}: Spearman | {c}: Pearson" for c in columns) + " |"]
        lines.append("|---" * (1 + 2 * len(columns)) + "|")
        for row in rows:
            values = [value for column in columns for value in row[truth][column]]
            lines.append(f"| {row['metric']} | " + " | ".join(f"{value:+.2f}" for value in values) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
