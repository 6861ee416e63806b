"""Writes a synthetic corpus: videos, tracks and truth, all cameras or nothing; cameras are rendered side by side."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.atomic import TEMPORARY, whole_file, write_json
from data_tools.synthetic.cameras import draw_cameras
from data_tools.synthetic.people import draw_person
from data_tools.synthetic.render import TruthRow, render
from data_tools.synthetic.settings import FPS, HEIGHT, WIDTH, WorldSettings, generator
from data_tools.synthetic.tracker_noise import CameraTruth, track
from data_tools.synthetic.world import draw_crossings
from data_tools.tracks import write_mot
from data_tools.video import write_video
from taudl_dist.errors import UserError
from taudl_dist.progress import log, progress

# in a rendering process, shared with the parent: the frames written by camera; whether to give up
_frames_done: Any = None
_is_cancelled: Any = None


def make_corpus(out: str | Path, settings: WorldSettings, *, workers: int) -> dict[str, Any]:
    """Renders a world into the folder `out` and returns its counts.

    Raises:
        UserError: `out` exists and is not an empty folder, or a rendering process died.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} exists and is not an empty folder; expected a new one, choose another --out or remove it"
        )
    temporary = out.with_name(f"{out.name}{TEMPORARY}{os.getpid()}")
    for part in ("videos", "tracks", "truth"):
        (temporary / part).mkdir(parents=True)
    try:
        cameras = _render_cameras(temporary, settings, workers)
        write_json(temporary / "truth" / "truth.json", _truth_header(settings))
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"out": str(out), "seconds": settings.num_frames / FPS, "people": settings.num_people, "cameras": cameras}


def _truth_header(settings: WorldSettings) -> dict[str, Any]:
    return {
        "format": "taudl-synth-truth",
        "version": 1,
        "seed": settings.seed,
        "fps": FPS,
        "test_start_s": settings.test_start_s,
        "cameras": settings.cameras,
        "train_people": settings.train_people,
        "test_people": settings.test_people,
    }


def _render_cameras(folder: Path, settings: WorldSettings, workers: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    done, cancelled = context.Array("q", settings.num_cameras), context.Event()
    workers = min(workers, settings.num_cameras)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(done, cancelled)
    ) as pool:
        jobs = [pool.submit(_render_camera, folder, settings, index) for index in range(settings.num_cameras)]
        try:
            total = settings.num_cameras * settings.num_frames
            for _ in progress(_wait(jobs, done), "render", unit="frames", total=total):
                pass
            return [job.result() for job in jobs]
        except BrokenProcessPool:
            raise UserError(
                "a rendering process died: was it killed, or is memory short? Try fewer --workers"
            ) from None
        finally:
            cancelled.set()  # after a failure or Ctrl-C the other cameras would be rendered to their end
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(done: Any, cancelled: Any) -> None:
    """In a rendering process: Ctrl-C ends it without a traceback."""
    global _frames_done, _is_cancelled
    _frames_done, _is_cancelled = done, cancelled
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(jobs: list[Future], done: Any) -> Iterator[None]:
    """Yields once for every frame that is written, until all cameras are finished; one line for each camera."""
    seen, running = 0, list(jobs)
    while running:
        time.sleep(0.2)
        finished = [job for job in running if job.done()]
        before, seen = seen, sum(done)
        yield from (None for _ in range(seen - before))
        for job in finished:
            running.remove(job)
            camera = job.result()
            log(
                f"{camera['name']}: {camera['frames']} frames, {camera['crossings']} crossings, {camera['tracks']} tracks"
            )


def _render_camera(folder: Path, settings: WorldSettings, index: int) -> dict[str, Any]:
    """Writes one camera's video, truth and tracks and returns its counts."""
    cameras = draw_cameras(settings)
    camera = cameras[index]
    crossings = [crossing for crossing in draw_crossings(settings, cameras) if crossing.camera == index]
    people = {number: draw_person(settings.seed, number) for number in {crossing.person for crossing in crossings}}
    rows: list[TruthRow] = []

    def frames() -> Iterator[np.ndarray]:
        for picture, seen in render(settings.seed, camera, people, crossings, settings.num_frames):
            rows.extend(seen)
            yield picture
            _frames_done[index] += 1
            if _is_cancelled.is_set():
                raise InterruptedError(f"{camera.name}: rendering was given up")

    write_video(folder / "videos" / f"{camera.name}.mp4", frames(), FPS)
    truth = _truth(rows, np.array([crossing.person for crossing in crossings], np.int64))
    _write_truth(truth, folder / "truth" / f"{camera.name}.txt")
    rng = generator(settings.seed, "tracker", index)
    tracks = track(truth, settings.noise, camera=camera.name, num_frames=settings.num_frames, rng=rng)
    write_mot(tracks, folder / "tracks" / f"{camera.name}.txt")
    num_tracks = len(np.unique(tracks["track"].to_numpy()))
    return {"name": camera.name, "frames": settings.num_frames, "crossings": len(crossings), "tracks": num_tracks}


def _truth(rows: list[TruthRow], person: np.ndarray) -> CameraTruth:
    """The rows as columns; boxes end at the picture's edge, and boxes of which little is left there are out of view."""
    if not rows:
        return CameraTruth(
            frame=np.zeros(0, np.int64), crossing=np.zeros(0, np.int64), person=np.zeros(0, np.int64),
            box=np.zeros((0, 4)), visibility=np.zeros(0),
        )  # fmt: skip
    frame, crossing, boxes, visibility = (np.array(column) for column in zip(*rows))
    box = np.clip(boxes, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    keep = (box[:, 2] - box[:, 0] >= 4) & (box[:, 3] - box[:, 1] >= 8)
    return CameraTruth(
        frame=frame[keep],
        crossing=crossing[keep],
        person=person[crossing[keep]],
        box=box[keep],
        visibility=visibility[keep],
    )


def _write_truth(truth: CameraTruth, path: Path) -> None:
    """MOTChallenge ground truth: frame and pixels from 1, id = person, flag 1, class 1, visibility."""
    with whole_file(path) as temporary, temporary.open("w") as file:
        for frame, person, (x1, y1, x2, y2), visibility in zip(truth.frame, truth.person, truth.box, truth.visibility):
            place = f"{x1 + 1:.2f},{y1 + 1:.2f},{x2 - x1:.2f},{y2 - y1:.2f}"
            file.write(f"{frame + 1},{person},{place},1,1,{visibility:.3f}\n")
