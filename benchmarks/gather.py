"""Does the gather matter? The same images in batches of few and of many tracklets: what CCTA finds there, and what the model is worth.

From one state, trained with the recipe `best` for --warm steps, training goes on with each recipe and each number of tracklets a batch,
until the same number of images is seen. Identities of the training split are read here, for counting alone. A batch of one process is
what W ranks gather (promise 3); batches above --split tracklets are computed in two passes.

    python -m benchmarks.gather --data DATASET [--world FOLDER] [--tracklets 48 96 192 384] [--recipes best paper] [--json FILE]

--world: the corpus of `taudl synth` that DATASET was sharded from; without it the dataset's own person ids are used (a benchmark).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from data_tools.sampling_quality import NOBODY, match_people
from data_tools.synthetic.settings import FPS
from data_tools.tracks import read_tracks
from taudl_dist.batches import BatchLoader, BatchPlan
from taudl_dist.config import Config, merge, resolve
from taudl_dist.dataset import Dataset, open_dataset, read_manifest
from taudl_dist.evaluation.evaluate import evaluate
from taudl_dist.evaluation.protocols import Protocol
from taudl_dist.model import save_model
from taudl_dist.training.schedule import learning_rate
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

People = dict[tuple[int, int], int]
"""(camera, label) -> person."""


def people_of_world(dataset: Dataset, world: Path) -> People:
    """Whom each training tracklet shows for half of its time or more, by its place in time; the others are left out."""
    found: People = {}
    manifest = read_manifest(dataset, splits=("train",))
    for number, camera in enumerate(dataset.cameras):
        file = Path(f"{camera}.txt")
        tracks, truth = (
            read_tracks(world / name / file, format="mot", camera=camera, fps=float(FPS))
            for name in ("tracks", "truth")
        )
        tracks = tracks.filter(pc.greater_equal(tracks["track"], 0))
        shown, track, time_s = match_people(tracks, truth), tracks["track"].to_numpy(), tracks["time_s"].to_numpy()
        people_at: dict[tuple[float, float], set[int]] = {}
        for one in np.unique(track):
            rows = track == one
            person, count = Counter(shown[rows].tolist()).most_common(1)[0]
            span = (round(time_s[rows].min(), 2), round(time_s[rows].max(), 2))
            people_at.setdefault(span, set()).add(person if count * 2 >= rows.sum() else NOBODY)
        for row in manifest.filter(pc.equal(manifest["camera"], camera)).to_pylist():
            here = people_at.get((round(row["start_s"], 2), round(row["end_s"], 2)), {NOBODY})
            if len(here) == 1 and NOBODY not in here:
                found[number, row["label"]] = here.pop()
    return found


def people_of_benchmark(dataset: Dataset) -> People:
    """The importer's person ids."""
    number = {camera: position for position, camera in enumerate(dataset.cameras)}
    rows = read_manifest(dataset, splits=("train",)).to_pylist()
    return {(number[row["camera"]], row["label"]): row["person_id"] for row in rows if row["person_id"] is not None}


class Matches:
    """Counts, over batches, what CCTA's neighbours are."""

    def __init__(self, people: Mapping[tuple[int, int], int]) -> None:
        self.people, self.known, self.matched, self.true, self.neighbours = people, 0, 0, 0, 0

    def count(self, means: torch.Tensor, cameras: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch: means (N, D), cameras and labels (N,)."""
        person = np.array([self.people.get(place, NOBODY) for place in zip(cameras.tolist(), labels.tolist())])
        known, other = person != NOBODY, cameras[:, None] != cameras
        same = (person[:, None] == person) & other & known[:, None]
        neighbours = min(max(1, len(np.unique(cameras)) // 2), int(other.sum(1).min()))
        distances = torch.cdist(means, means).masked_fill(~torch.from_numpy(other), torch.inf)
        nearest = distances.topk(neighbours, largest=False).indices.numpy()
        has_match = same.any(1)
        self.known += int(known.sum())
        self.matched += int(has_match.sum())
        self.true += int(np.take_along_axis(same, nearest, axis=1)[has_match].sum())
        self.neighbours += int(np.minimum(same.sum(1), neighbours)[has_match].sum())

    def rates(self, prefix: str) -> dict[str, float]:
        """Share of tracklets with a true match in their batch, and the share of their matches that are among the K nearest."""
        return {
            f"{prefix}_match": self.matched / max(1, self.known),
            f"{prefix}_found": self.true / max(1, self.neighbours),
        }


def run(
    learner: Learner, dataset: Dataset, config: Config, people: People, *, steps: int, constant: bool
) -> dict[str, float]:
    """Trains `steps` steps and counts the neighbours of the first and of the last quarter."""
    world = learner.world
    plan = BatchPlan(dataset, config)
    loader = BatchLoader(dataset, plan, rank=0, world_size=1, start=0, stop=steps)
    early, late = Matches(people), Matches(people)
    means: list[torch.Tensor] = []
    embed = type(learner).embed

    def observe(self: Learner, *args: Any) -> torch.Tensor:
        features = embed(self, *args)
        means.append(features.detach())
        return features

    type(learner).embed = observe  # type: ignore[method-assign, assignment]
    try:
        for batch in loader:
            means.clear()
            lr = config.optim.lr if constant else learning_rate(batch.step, steps=steps, config=config.optim)
            train_step(learner, batch, lr=lr)
            images = batch.composition.num_images
            features = torch.cat(means)[:images]  # a second pass computes them again
            quarter = batch.step * 4 // steps
            if quarter in (0, 3):
                tracklets = features.unflatten(0, (-1, batch.composition.frames)).mean(1).float()
                composition = batch.composition
                (early if quarter == 0 else late).count(tracklets, composition.cameras, composition.labels)
    finally:
        type(learner).embed = embed  # type: ignore[method-assign, assignment]
    assert world.size == 1
    return {**early.rates("early"), **late.rates("late")}


def copied(learner: Learner, config: Config, dataset: Dataset) -> Learner:
    """A learner of other settings in the same state: weights, heads, moments."""
    new = Learner.build(config, dataset, learner.world)
    state = {name: tensor.clone() for name, tensor in learner.backbone.state().items()}
    new.backbone.load(state.get)
    with tempfile.TemporaryDirectory() as folder:
        from safetensors import safe_open
        from safetensors.torch import save_file

        tensors, metadata = learner.heads.state()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, f"{folder}/heads", metadata)
        with safe_open(f"{folder}/heads", framework="pt") as file:
            new.heads.load([file])
    return new


def scores(learner: Learner, data: str) -> dict[str, float]:
    """R1 and mAP on query and gallery, from four frames a tracklet."""
    learner.model.eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(learner.model, Path(folder), {"step": 0})
        found = evaluate(data, folder, protocol=Protocol(frames=4))
    learner.model.train()
    return {"rank1": found["rank1"], "mAP": found["mAP"]}


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The warm state, then one row for each recipe and number of tracklets."""
    dataset = open_dataset(args.data)
    people = people_of_world(dataset, args.world) if args.world else people_of_benchmark(dataset)
    if not people:
        raise SystemExit(f"{args.data} tells nobody's identity; give --world, or the dataset of a benchmark")
    base = {
        "data": args.data, "seed": args.seed,
        "model": {"name": args.model, "weights": args.weights},
        "batch": {"height": 128, "width": 64, "frames": args.frames},
        "optim": {"lr": args.lr},
    }  # fmt: skip
    world = World(rank=0, size=1, device=torch.device("cpu"))

    def config(recipe: str, tracklets: int, **more: Any) -> Config:
        images = tracklets * args.frames
        two_pass = tracklets > args.split
        return resolve(
            merge(base, {"recipe": recipe, "batch": {"images": images}, "parallel": {"two_pass": two_pass}, **more})
        )

    begin = config("best", args.warm_tracklets)
    warm = Learner.build(begin, dataset, world)
    run(warm, dataset, begin, people, steps=args.warm, constant=True)
    table: list[dict[str, Any]] = [{"recipe": "warm", **scores(warm, args.data)}]
    print(json.dumps(table[-1]), flush=True)
    for recipe in args.recipes:
        for tracklets in args.tracklets:
            began = time.monotonic()
            chosen = config(recipe, tracklets, seed=args.seed + 1)
            steps = max(4, args.images // (tracklets * args.frames))
            learner = copied(warm, chosen, dataset)
            counts = run(learner, dataset, chosen, people, steps=steps, constant=False)
            table.append({
                "recipe": recipe, "tracklets": BatchPlan(dataset, chosen).images_per_step // args.frames, "steps": steps,
                **counts, **scores(learner, args.data), "seconds": time.monotonic() - began,
            })  # fmt: skip
            print(json.dumps(table[-1]), flush=True)
    return table


def main() -> None:
    """Prints a JSON line for each row as it comes, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--tracklets", type=int, nargs="+", default=[48, 96, 192, 384])
    parser.add_argument("--recipes", nargs="+", default=["best", "paper"])
    parser.add_argument("--images", type=int, default=30_000, help="images of each row")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--warm", type=int, default=300, help="steps before")
    parser.add_argument("--warm-tracklets", type=int, default=24)
    parser.add_argument("--split", type=int, default=96, help="tracklets above which a batch is computed in two passes")
    parser.add_argument("--model", default="small")
    parser.add_argument("--weights", default="")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = rows(args)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    print("| recipe | tracklets a batch | steps | with a match | matches found, first / last quarter | R1 | mAP |")
    print("|---|---|---|---|---|---|---|")
    for row in table:
        score = f"{100 * row['rank1']:.1f} | {100 * row['mAP']:.1f}"
        if "steps" not in row:
            print(f"| before | | | | | {score} |")
            continue
        found = f"{100 * row['early_found']:.0f} / {100 * row['late_found']:.0f} %"
        print(
            f"| `{row['recipe']}` | {row['tracklets']} | {row['steps']} | {100 * row['early_match']:.0f} % | {found} | {score} |"
        )


if __name__ == "__main__":
    main()
