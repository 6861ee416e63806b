"""Embedding in pieces: who computes which tracklets may change, and may die, without a bit of the result changing.

A piece is a run of manifest rows with enough images to fill many batches. Pieces and their batches follow from the manifest alone, and
a batch never reaches over a piece's end; so a piece's features do not depend on who makes them, when, or what else there is.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_tools.atomic import remove_leftovers, whole_file, write_json
from taudl_dist.dataset import Dataset, open_dataset
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation.features import (
    Extractor,
    best_device,
    extractor,
    pool,
    taken_frames,
    tracklet_images,
    unit_length,
)
from taudl_dist.progress import log, progress

if TYPE_CHECKING:
    import pyarrow as pa

MAX_IMAGES, MAX_TRACKLETS = 4096, 2048
"""Where a piece ends: enough to fill 32 batches, few enough to be lost without regret and to be held by a driver."""
Device = Literal["auto", "cpu", "gpu"]
_REQUEST, LOCK = "request.json", "lock"


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that features depend on.

    Args:
        data, model: where the dataset and the weights lie, and the digests that both must have.
        split: tracklets that are embedded, or `all`.
        frames: evenly spaced frames averaged per tracklet; 0 takes all.
        flip: average over each image and its mirror image.
        normalize: divide each tracklet's feature by its L2 norm.
    """

    data: str
    model: str
    dataset_digest: str
    model_digest: str
    split: str = "all"
    frames: int = 0
    flip: bool = False
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise UsageError(f"--frames {self.frames}: expected 0 (all) or more")

    @property
    def facts(self) -> dict[str, str]:
        """What a file of features says of itself: everything but places."""
        return {name: str(value) for name, value in asdict(self).items() if name not in ("data", "model")}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """`rows` of the manifest, of which `num_images` images go through the network."""

    number: int
    rows: pa.Table
    num_images: int


def cut_pieces(rows: pa.Table, *, frames: int) -> list[Piece]:
    """All rows, in order; a piece ends with the tracklet that reaches MAX_IMAGES, or has MAX_TRACKLETS."""
    counts = taken_frames(np.asarray(rows["num_frames"]).astype(np.int64), frames)
    before = np.concatenate([[0], np.cumsum(counts)])
    pieces: list[Piece] = []
    start = 0
    while start < len(counts):
        full = int(np.searchsorted(before, before[start] + MAX_IMAGES))
        stop = min(full, start + MAX_TRACKLETS, len(counts))
        piece = Piece(
            number=len(pieces), rows=rows.slice(start, stop - start), num_images=int(before[stop] - before[start])
        )
        pieces.append(piece)
        start = stop
    return pieces


@dataclass(frozen=True, kw_only=True)
class PieceFolder:
    """Finished pieces on disk, until the file is made of them: NUMBER.npy, and what they are pieces of."""

    path: Path

    def open(self, request: Request, *, restart: bool) -> None:
        """Begins, or goes on with what the same request began; the folder is there and locked.

        Raises:
            UserError: it was begun by another request, and `restart` is not given.
        """
        remove_leftovers(self.path)
        begun = self._begun()
        if begun and begun != request.facts:
            if not restart:
                raise UserError(
                    f"{self.path}: {_difference(begun, request.facts)}; give the flags it was begun with, pass --overwrite to begin"
                    " anew, or choose another --out"
                )
            self._empty()
        write_json(self.path / _REQUEST, request.facts)

    def remove(self) -> None:
        """Deletes the folder and the pieces in it, and nothing else."""
        self._empty()
        (self.path / LOCK).unlink(missing_ok=True)
        if self.path.exists():
            self.path.rmdir()

    def _empty(self) -> None:
        for path in [*self.path.glob("*.npy"), self.path / _REQUEST]:
            path.unlink(missing_ok=True)

    def write(self, piece: Piece, features: np.ndarray) -> None:
        """Keeps the features (n, D) of a piece."""
        with whole_file(self._file(piece)) as temporary, temporary.open("wb") as file:
            np.save(file, features)

    def read(self, piece: Piece) -> np.ndarray | None:
        """The features (n, D) of a piece; None: it has to be made."""
        try:
            features = np.load(self._file(piece), mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        is_whole = features.ndim == 2 and len(features) == len(piece.rows) and features.dtype == np.float32
        return features if is_whole else None

    def missing(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Pieces that have to be made."""
        return [piece for piece in pieces if self.read(piece) is None]

    def _file(self, piece: Piece) -> Path:
        return self.path / f"{piece.number:06d}.npy"

    def _begun(self) -> dict[str, str]:
        """The facts of the request that began; empty: nothing has begun."""
        found = sorted(path.name for path in self.path.iterdir() if path.name != LOCK)
        if not found:
            return {}
        try:
            begun = json.loads((self.path / _REQUEST).read_text())
        except (FileNotFoundError, ValueError):
            begun = None
        strange = [name for name in found if not name.endswith(".npy") and name != _REQUEST]
        if strange or not isinstance(begun, dict):
            raise UserError(
                f"{self.path}: found {(strange or found)[0]}, expected what an interrupted `taudl embed` leaves; move it away, or"
                " choose another --out"
            )
        return begun


def _difference(begun: dict[str, str], wanted: dict[str, str]) -> str:
    name = next(name for name in {**wanted, **begun} if begun.get(name) != wanted.get(name))
    return f"an embedding was begun there with {name} {begun.get(name)}, found {name} {wanted.get(name)}"


def make_pieces(
    request: Request, pieces: Sequence[Piece], *, workers: int, threads: int, device: Device
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Pieces and their features (n, D), in any order: by Ray tasks, or in this process.

    Args:
        threads: CPU threads of the network in each process.
        device: what each process takes; auto: a GPU where this machine, or with several workers the cluster, has any. Ray tasks
            wait for machines with a GPU (or CPUs) that are still to come, as from an autoscaler.

    Raises:
        UsageError: a GPU for this process, and there is none.
        UserError: a damaged image or shard, another dataset or model than the request names, or a worker that always dies.
    """
    total = sum(piece.num_images for piece in pieces)
    if workers > 1 and (len(pieces) > 1 or device == "gpu"):
        done = progress(
            _image_by_image(_by_ray(request, pieces, workers, threads, device)), "features", unit="img", total=total
        )
        yield from (result for result in done if result is not None)
        return
    extract, dataset = _open(request, _of_this_process(device))
    images = progress(_images(dataset, pieces, request.frames), "features", unit="img", total=total)
    for piece in pieces:
        with _cpu_threads(threads):
            features = _features(request, piece, extract, itertools.islice(images, piece.num_images))
        yield piece, features


def _of_this_process(device: Device) -> str:
    found = best_device()
    if device == "gpu" and found == "cpu":
        raise UsageError("--device gpu: this process sees no GPU; drop it, or let workers of a Ray cluster embed")
    return "cpu" if device == "cpu" else found


def _by_ray(
    request: Request, pieces: Sequence[Piece], workers: int, threads: int, device: Device
) -> Iterator[tuple[Piece, np.ndarray]]:
    from data_tools.ray_tasks import run_on_ray
    from taudl_dist.ray_cluster import ray_session

    with ray_session(cpus=workers * threads) as ray:
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        use_gpu = device == "gpu" or (device == "auto" and has_gpu)
        waits = "; waiting for the first GPU" if use_gpu and not has_gpu else ""
        log(f"features: {len(pieces)} pieces by {workers} workers of a {'GPU' if use_gpu else 'CPU'} each{waits}")
        place = "cuda" if use_gpu else "cpu"

        def embed(piece: Piece) -> np.ndarray | UserError:
            return embed_piece(request, place, threads, piece)

        tasks = map(_alone, pieces)
        for piece, result in run_on_ray(embed, tasks, workers=workers, num_cpus=threads, num_gpus=int(use_gpu)):
            if isinstance(result, UserError):
                raise result
            if isinstance(result, Exception):
                raise UserError(
                    f"piece {piece.number} of the features: its worker died each time it was tried ({type(result).__name__}); not"
                    " enough memory for --workers at once? What is done is kept: run the same command with fewer workers"
                )
            yield piece, result


def _alone(piece: Piece) -> Piece:
    """The piece without the rest of the manifest, which a slice of a table takes along when it is sent."""
    return replace(piece, rows=piece.rows.take(np.arange(len(piece.rows))))


def embed_piece(request: Request, device: str, threads: int, piece: Piece) -> np.ndarray | UserError:
    """The features (n, D) of a piece, or what is wrong with the user's data: a Ray task."""
    try:
        extract, dataset = _kept_open(request, device)
        with _cpu_threads(threads):
            return _features(request, piece, extract, _images(dataset, [piece], request.frames))
    except UserError as error:
        return error


def _features(request: Request, piece: Piece, extract: Extractor, images: Iterator[tuple[int, bytes]]) -> np.ndarray:
    features = pool(extract, images, piece.rows, frames=request.frames)
    return unit_length(features) if request.normalize else features


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    """Sums over channels are split among threads, and rounded accordingly."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images(dataset: Dataset, pieces: Sequence[Piece], frames: int) -> Iterator[tuple[int, bytes]]:
    return itertools.chain.from_iterable(tracklet_images(dataset, piece.rows, frames=frames) for piece in pieces)


def _open(request: Request, device: str) -> tuple[Extractor, Dataset]:
    """Network and dataset; on a worker's machine the paths may lead elsewhere, so both are checked."""
    from taudl_dist.evaluation.evaluate import model_digest, weights_path
    from taudl_dist.model import load_model

    dataset = open_dataset(request.data)
    for name, place, found in (
        ("dataset_digest", request.data, dataset.digest),
        ("model_digest", request.model, model_digest(request.model)),
    ):
        if found != getattr(request, name):
            raise UserError(
                f"{place}: {name} {found}, expected {getattr(request, name)}; it was replaced meanwhile, or a worker's"
                " machine sees another one under this path: put it on storage that all see"
            )
    model = load_model(weights_path(request.model), device=device)
    return extractor(model, flip=request.flip, device=device), dataset


@functools.lru_cache(maxsize=1)
def _kept_open(request: Request, device: str) -> tuple[Extractor, Dataset]:
    """`_open` for a worker process, which makes many pieces."""
    return _open(request, device)


def _image_by_image(
    results: Iterator[tuple[Piece, np.ndarray]],
) -> Iterator[tuple[Piece, np.ndarray] | None]:
    """A result for each image, the piece with the last; a progress line counts images."""
    for piece, features in results:
        yield from itertools.repeat(None, piece.num_images - 1)
        yield piece, features
