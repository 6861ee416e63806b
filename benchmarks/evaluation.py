"""Ranking metrics of features against other evaluators' Python code: time, peak memory, and agreement.

The peers are files of yours that hold `eval_market1501(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)` as
fastreid/evaluation/rank.py and torchreid/metrics/rank.py do; they get the matrix of distances in one piece, made by one matrix
product. Each measure is a process of its own: seconds from features to metrics, and the largest anonymous memory beyond what it had
when features were open (mapped files are not counted: the system may drop their pages).

    python -m benchmarks.evaluation [--peer NAME=rank.py ...] [--gallery 15913 100000] [--json]
    python -m benchmarks.evaluation --peer NAME=rank.py --agreement
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from taudl_dist.evaluation import rank_metrics, rank_metrics_from_features, single_shot_cmc
from taudl_dist.evaluation.distances import runs

NUM_QUERIES, DIM, NUM_PEOPLE, NUM_CAMERAS = 3368, 2048, 751, 6
"""Market-1501's queries and people, and a ResNet-50's features."""
ITEMS_OF_PEOPLE = 13_115
"""Gallery items that show someone; the rest are distractors, so that a larger gallery is harder and not fuller."""
NOISE = 3.2
MAX_RANK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--gallery", type=int, nargs="*", default=[15_913])
    parser.add_argument(
        "--alone", type=int, nargs="*", default=[], help="gallery sizes without peers: too large for a matrix"
    )
    parser.add_argument("--queries", type=int, default=NUM_QUERIES)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--folder", help="where features are written and deleted; by default a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "PEER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure[0]), args.measure[1])))
        return
    peers = dict(peer.split("=", 1) for peer in args.peer)
    if args.agreement:
        rows: list[dict[str, Any]] = [{"peer": name, **agreement(load(path))} for name, path in peers.items()]
    else:
        rows = [
            row
            for size in [*args.gallery, *args.alone]
            for row in compare(args.queries, size, peers if size in args.gallery else {}, folder=args.folder)
        ]
    print(json.dumps(rows) if args.json else "\n".join(f"{key} {row[key]}" for row in rows for key in row))


def compare(num_queries: int, num_gallery: int, peers: dict[str, str], *, folder: str | None) -> list[dict[str, Any]]:
    """A row for ours and each peer at one size of the gallery, with their ratios to ours."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_features(Path(place), num_queries, num_gallery)
        rows = []
        for name, path in {"ours": "", **peers}.items():
            command = [sys.executable, "-m", "benchmarks.evaluation", "--measure", place, path]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            rows.append({"evaluator": name, "queries": num_queries, "gallery": num_gallery, **found})
    ours = rows[0]
    for row in rows[1:]:
        row |= {f"{key} / ours": row[key] / ours[key] for key in ("seconds", "peak_mb")}
        row["mAP - ours"] = row["mAP"] - ours["mAP"]
    return rows


def measure(folder: Path, peer: str) -> dict[str, float]:
    """Seconds, peak memory and mAP of one evaluation in this process."""
    import torch

    query, gallery = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("query", "gallery"))
    labels = [
        np.load(folder / f"{name}.npy") for name in ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
    ]
    work = (lambda: ours(query, gallery, labels)) if not peer else (lambda: theirs(load(peer), query, gallery, labels))
    torch.ones(64, 64) @ torch.ones(64, 64)  # libraries and threads are up
    with PeakMemory() as memory:
        start = time.perf_counter()
        mean_ap = work()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": memory.peak_mb, "mAP": mean_ap}


def ours(query: np.ndarray, gallery: np.ndarray, labels: list[np.ndarray]) -> float:
    return rank_metrics_from_features(query, gallery, *labels, max_rank=MAX_RANK).mAP


def theirs(peer: ModuleType, query: np.ndarray, gallery: np.ndarray, labels: list[np.ndarray]) -> float:
    import torch

    q, g = (torch.from_numpy(np.array(side)) for side in (query, gallery))
    squares = q.square().sum(1)[:, None] + g.square().sum(1)
    distances = squares.addmm_(q, g.T, alpha=-2).clamp_(min=0).sqrt_()
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    found = peer.eval_market1501(distances.numpy(), query_ids, gallery_ids, query_cameras, gallery_cameras, MAX_RANK)
    return float(np.mean(found[1]))


class PeakMemory:
    """The largest anonymous memory of this process while it is open, beyond what it was at its start."""

    peak_mb = 0.0

    def __enter__(self) -> PeakMemory:
        self._start, self._stop = _anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak_mb = max(self.peak_mb, _anonymous_mb() - self._start)


def _anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def write_features(folder: Path, num_queries: int, num_gallery: int) -> None:
    """Noisy copies of one random vector a person, and strangers, as .npy files."""
    rng = np.random.default_rng(num_gallery)
    people = rng.standard_normal((NUM_PEOPLE, DIM), dtype=np.float32)
    ids = {"query": rng.integers(1, NUM_PEOPLE, num_queries), "gallery": np.zeros(num_gallery, np.int64)}
    real = rng.permutation(num_gallery)[:ITEMS_OF_PEOPLE]
    ids["gallery"][real] = rng.integers(1, NUM_PEOPLE, len(real))
    for side, of_side in ids.items():
        np.save(folder / f"{side}_ids.npy", of_side)
        np.save(folder / f"{side}_cameras.npy", rng.integers(0, NUM_CAMERAS, len(of_side)))
        out = np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float32, (len(of_side), DIM))
        for rows in runs(len(of_side), 1 << 14):
            centre = np.where(of_side[rows, None] > 0, people[of_side[rows]], 0)
            out[rows] = centre + NOISE * rng.standard_normal((rows.stop - rows.start, DIM), dtype=np.float32)
        out.flush()


def load(path: str) -> ModuleType:
    """A peer's file as a module."""
    spec = importlib.util.spec_from_file_location("peer", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--peer {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class StableNumpy:
    """numpy whose argsort is stable: with its default, equal distances rank by chance."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def argsort(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.argsort(values, axis=axis, kind="stable")


def agreement(peer: ModuleType, *, repeats: int = 50) -> dict[str, float]:
    """Largest differences of CMC, mAP and mINP to a peer over random, tied and degenerate cases; see `cases`."""
    peer.np = StableNumpy()  # type: ignore[attr-defined]
    worst: dict[str, float] = {}
    count = 0
    for name, case in cases(repeats):
        distances, query_ids, gallery_ids, query_cameras, gallery_cameras = case
        known = gallery_ids != -1  # the peers know no junk
        kept = (query_ids[:, None] != gallery_ids[known]) | (query_cameras[:, None] != gallery_cameras[known])
        max_rank = min(20, int(kept.sum(1).min()))  # they fail where a query keeps fewer
        labels = query_ids, gallery_ids[known], query_cameras, gallery_cameras[known]
        cmc, *rest = peer.eval_market1501(distances[:, known], *labels, max_rank)
        found = rank_metrics(*case, max_rank=max_rank)
        pairs = {"cmc": np.abs(cmc - found.cmc).max(), "mAP": abs(np.mean(rest[0]) - found.mAP)}
        if len(rest) > 1:
            pairs["mINP"] = abs(np.mean(rest[1]) - found.mINP)
        for key, value in pairs.items():
            worst[f"{name}: {key}"] = max(worst.get(f"{name}: {key}", 0.0), float(value))
        count += 1
    return {"cases": count, **worst, "single shot: cmc, in its standard errors": single_shot_error(peer)}


def cases(repeats: int) -> list[tuple[str, tuple[np.ndarray, ...]]]:
    """Distances, identities and cameras: random ones, ones with few values, and the edges."""
    change: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "random": lambda d: d,
        "tied": lambda d: np.round(4 * d),
        "degenerate: all equal": np.zeros_like,
        "degenerate: in order": lambda d: np.sort(d, axis=1),
        "degenerate: infinite": lambda d: np.where(d > 0.5, np.inf, d),
    }
    sizes = [(40, 200), (1, 60), (60, 25)]
    made = []
    for name, of in change.items():
        for seed in range(repeats):
            rng = np.random.default_rng(seed)
            num_query, num_gallery = sizes[seed % len(sizes)]
            labels = [
                rng.integers(1, 12, num_query), rng.integers(-1, 10, num_gallery),
                rng.integers(0, 3, num_query), rng.integers(0, 3, num_gallery),
            ]  # fmt: skip
            labels[0][0], labels[1][:2], labels[2][0], labels[3][:2] = 1, 1, 0, (0, 1)  # one match at least
            distances = of(rng.random((num_query, num_gallery)).astype(np.float32))
            made.append((name, (distances, *labels)))
    return made


def single_shot_error(peer: ModuleType, *, rounds: int = 200) -> float:
    """Largest difference of the expected single-gallery-shot CMC to the mean of a peer's draws, in standard errors of that mean."""
    name, case = cases(1)[0]
    assert name == "random"
    keep = case[2] != -1
    case = (case[0][:, keep], case[1], case[2][keep], case[3], case[4][keep])
    drawn = []
    for seed in range(rounds):
        np.random.seed(seed)
        drawn.append(peer.eval_cuhk03(*case, 5)[0])
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(rounds)
    expected = single_shot_cmc(*case, max_rank=5)
    return float(np.max(np.abs(np.mean(drawn, axis=0) - expected) / np.maximum(error, 1e-9)))


if __name__ == "__main__":
    main()
