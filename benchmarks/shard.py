"""Speed of sharding against its limits: decoding alone, converting whole frames, not jumping; what else was tried.

Renders one camera at 1920 x 1080, 25 frames a second, with a key frame every two seconds and B-frames. Busy: four people in view at
any time. Quiet: one person at the beginning and one at the end (the same video, fewer tracks). All rates are per second of CPU time of one core, decoder with one thread, unless a line says otherwise.

    python -m benchmarks.shard [--seconds 60] [--video VIDEO --tracks TRACKS] [--json]
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import corpus, units
from data_tools.crops import QUALITY
from data_tools.picture import Picture
from data_tools.sources import ShardSettings
from data_tools.unit_process import Step
from data_tools.video import FrameIndex, find_route, index_frames, iter_frames, iter_pictures, num_decoded

WIDTH, HEIGHT, FPS = 1920, 1080, 25
REPEATS = 2
Box = tuple[int, int, int, int]
"""x, y, width, height."""


def render(path: Path, seconds: int, seed: int = 0) -> list[tuple[int, int, Box]]:
    """Writes the video; returns (frame, track, box x y w h) of its people."""
    import av

    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 6, (HEIGHT // 4 + 8, WIDTH // 4 + 8, 3)).repeat(4, 0).repeat(4, 1)
    ground = np.clip(110 + np.linspace(-40, 40, HEIGHT + 32)[:, None, None] + grain, 0, 255)[:HEIGHT, :WIDTH].astype(
        np.uint8
    )
    noise = (rng.integers(-3, 4, (HEIGHT, WIDTH, 1)) for _ in range(7))  # a sensor's
    grounds = [np.clip(ground + one, 0, 255).astype(np.uint8) for one in noise]
    people = [_Person(number, rng, seconds) for number in range(seconds // 2)]
    boxes = []
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "g": str(2 * FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(seconds * FPS):
            picture = grounds[index % len(grounds)].copy()
            for person in people:
                box = person.box(index / FPS)
                if box is not None:
                    x, y, w, h = box
                    picture[y : y + h, x : x + w] = person.looks(index)
                    boxes.append((index, person.number, box))
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sink.mux(stream.encode(None))
    return boxes


class _Person:
    """Walks across the picture in eight seconds, one of them starting every two."""

    def __init__(self, number: int, rng: np.random.Generator, seconds: int) -> None:
        self.number, self.begin_s, self.seconds = number, 2.0 * number, seconds
        self.height = int(rng.integers(160, 420))
        self.width = self.height * 2 // 5
        self.top = int(rng.integers(0, HEIGHT - self.height))
        self.clothes = rng.integers(0, 256, (self.height // 20 + 1, self.width // 20 + 1, 3)).astype(np.uint8)

    def box(self, time_s: float) -> Box | None:
        share = (time_s - self.begin_s) / 8
        if not 0 <= share < 1:
            return None
        return int(share * (WIDTH - self.width)), self.top, self.width, self.height

    def looks(self, index: int) -> np.ndarray:
        large = self.clothes.repeat(20, 0).repeat(20, 1)[: self.height, : self.width]
        return np.roll(large, index % 7, 0)


def write_tracks(path: Path, boxes: list[tuple[int, int, Box]], *, people: set[int]) -> None:
    """MOTChallenge text of some people."""
    path.parent.mkdir(parents=True)
    lines = [
        f"{frame + 1},{track + 1},{','.join(map(str, box))},1,-1,-1,-1\n"
        for frame, track, box in boxes
        if track in people
    ]
    path.write_text("".join(lines))


def decode_only(video: Path, num_frames: int, *, threads: int = 1, **context: Any) -> None:
    """Frames through the decoder and no further."""
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        stream.thread_type = "FRAME" if threads > 1 else "SLICE"
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for count, _ in enumerate(container.decode(stream), start=1):
            if count == num_frames:
                break


def seconds_of(call: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float]:
    """CPU seconds and seconds by the clock: the least of a few repetitions each."""
    found = []
    for _ in range(repeats):
        started = time.process_time(), time.perf_counter()
        call()
        found.append((time.process_time() - started[0], time.perf_counter() - started[1]))
    cpu_s, wall_s = map(min, zip(*found))
    return cpu_s, wall_s


class Watch:
    """CPU seconds and calls of the functions that sharding spends its time in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - started
                self.calls[name] += 1

        return inner

    def timed_steps(self, name: str, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def inner(*args: Any, **kwargs: Any) -> Iterator[Any]:
            steps = call(*args, **kwargs)
            advance = self.timed(name, lambda: next(steps, None))
            while (step := advance()) is not None:
                yield step

        return inner


def shard(folder: Path, videos: Path, tracks: Path, settings: ShardSettings) -> dict[str, Any]:
    """Shards a corpus anew in this process, not in one beside it, which takes a second to start; its plan and dataset.json."""
    out = folder / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    beside, corpus.run_beside = corpus.run_beside, run_here
    try:
        info = corpus.shard_corpus(videos, tracks, out, settings=settings)
    finally:
        corpus.run_beside = beside
    return {"plan": json.loads((out / "plan.json").read_text()), "info": info}


def run_here(tasks: Sequence[units.UnitTask]) -> Generator[Step, None, None]:
    """As `run_beside`."""
    for task in tasks:
        for step in units.unit_steps(task):
            if isinstance(step, units.UnitResult):
                yield task, step
            else:
                yield from [(task, None)] * step


def measure_sharding(folder: Path, videos: Path, tracks: Path, settings: ShardSettings) -> dict[str, Any]:
    """Sharding beside decoding alone of as many frames, and where its time goes."""
    made = shard(folder, videos, tracks, settings)
    video = next(videos.iterdir())
    planned = [source for unit in made["plan"]["units"] for source in unit["sources"]]
    num_frames = sum(source["decoded"] for source in planned)
    read_through = sum(source["last_frame"] + 1 for source in planned)
    crops = sum(unit["crops"] for unit in made["plan"]["units"])
    size = sum(one["bytes"] for one in made["info"]["shards"])
    cpu_s, _ = seconds_of(lambda: shard(folder, videos, tracks, settings))
    alone_s, _ = seconds_of(lambda: decode_only(video, read_through))
    return {
        "frames": num_frames,
        "frames_read_through": read_through,
        "crops": crops,
        "cpu_s": cpu_s,
        "frames_per_s": num_frames / cpu_s,
        "covered_per_s": read_through / cpu_s,
        "decoding_alone_frames_per_s": read_through / alone_s,
        "crops_per_s": crops / cpu_s,
        "mb_per_s": size / cpu_s / 1e6,
        "stages": stages(folder, videos, tracks, settings),
    }


def stages(folder: Path, videos: Path, tracks: Path, settings: ShardSettings) -> dict[str, float]:
    """Share of sharding's CPU time in each of its parts."""
    watch, kept = Watch(), (units.iter_pictures, units.encode_crop, units.write_unit, Picture.cut)
    units.iter_pictures = watch.timed_steps("decode", kept[0])
    units.encode_crop, units.write_unit = watch.timed("resize, JPEG", kept[1]), watch.timed("tar, digest", kept[2])
    Picture.cut = watch.timed("cut, RGB", kept[3])  # type: ignore[method-assign]
    try:
        started = time.process_time()
        shard(folder, videos, tracks, settings)
        total = time.process_time() - started
    finally:
        units.iter_pictures, units.encode_crop, units.write_unit = kept[:3]
        Picture.cut = kept[3]  # type: ignore[method-assign]
    shares = {name: seconds / total for name, seconds in watch.seconds.items()}
    return {**shares, "plan and rest": 1 - sum(shares.values())}


def measure_choices(video: Path, wanted: np.ndarray, index: FrameIndex) -> dict[str, float]:
    """CPU seconds of getting the wanted frames, one way beside the other."""

    def through(pictures: Iterator[Any]) -> None:
        for _ in pictures:
            pass

    route = find_route(index, wanted)
    return {
        "frames of the route": num_decoded(wanted, route),
        "frames read through": num_decoded(wanted, None),
        "by a route": seconds_of(lambda: through(iter_pictures(video, wanted=wanted, route=route)), 1)[0],
        "reading through": seconds_of(lambda: through(iter_pictures(video, wanted=wanted)), 1)[0],
        "reading through, whole frames as RGB": seconds_of(lambda: through(iter_frames(video, wanted=wanted)), 1)[0],
    }


def measure_decoder(video: Path, num_frames: int) -> dict[str, Any]:
    """Frames a second of what a decoder can be told; per CPU second, and for threads by the clock too."""
    told: dict[str, dict[str, Any]] = {
        "one thread": {},
        "two threads": {"threads": 2},
        "without frames that no other needs": {"skip_frame": "NONREF"},
        "key frames only": {"skip_frame": "NONKEY"},
        "no deblocking (other pixels)": {"options": {"skip_loop_filter": "all"}},
    }
    found = {}
    for name, how in told.items():
        dropped = "skip_frame" in how
        decode = functools.partial(decode_only, video, 10**9 if dropped else num_frames, **how)
        cpu_s, wall_s = seconds_of(decode)
        found[name] = {"per_cpu_s": num_frames / cpu_s, "per_s": num_frames / wall_s}
    return found


def measure_encoders(pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """Microseconds and bytes of a crop that is not made smaller, by encoder and quality."""
    import io

    import torch
    from PIL import Image
    from torchvision.io import encode_jpeg

    torch.set_num_threads(1)

    def pillow(quality: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue()

    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    calls: dict[str, Callable[[], bytes]] = {
        f"Pillow, quality {quality}": functools.partial(pillow, quality) for quality in (75, QUALITY, 95)
    }
    calls[f"torchvision, quality {QUALITY}"] = lambda: encode_jpeg(tensor, quality=QUALITY).numpy().tobytes()
    try:
        import cv2
    except ImportError:
        pass
    else:
        cv2.setNumThreads(1)
        options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        calls[f"OpenCV, quality {QUALITY}"] = lambda: bytes(cv2.imencode(".jpg", pixels[:, :, ::-1], options)[1])
    times = {}
    for name, call in calls.items():
        size = len(call())
        times[name] = {"us": seconds_of(lambda: [call() for _ in range(200)])[0] / 200 * 1e6, "bytes": size}  # noqa: B023
    return times


def measure_workers(folder: Path, videos: Path, tracks: Path, settings: ShardSettings) -> dict[str, float]:
    """Seconds by the clock of 1 worker and of 2, for two cameras; the second with the start of Ray."""
    both = folder / "both"
    for place in (videos, tracks):
        (both / place.name).mkdir(parents=True)
        for path in place.iterdir():
            for camera in ("cam1", "cam2"):
                shutil.copy(path, both / place.name / f"{camera}{path.suffix}")
    found = {}
    for workers in (1, 2):
        started = time.perf_counter()
        out = both / f"dataset{workers}"
        corpus.shard_corpus(both / videos.name, both / tracks.name, out, settings=settings, workers=workers)
        found[f"{workers} workers"] = time.perf_counter() - started
    return found


def measure(folder: Path, seconds: int, video: Path | None = None, tracks: Path | None = None) -> dict[str, Any]:
    """Everything; of one's own video and tracks, or of rendered ones."""
    videos, settings = folder / "videos", ShardSettings(interval_s=6.0, min_distance=50.0)
    videos.mkdir()
    places = {}
    if video and tracks:
        shutil.copy(video, videos / f"cam{video.suffix}")
        places["own"] = folder / "tracks"
        places["own"].mkdir()
        shutil.copy(tracks, places["own"] / f"cam{tracks.suffix}")
    else:
        boxes = render(videos / "cam.mp4", seconds)
        everybody = {track for _, track, _ in boxes}
        for name, people in {"busy": everybody, "quiet": {0, (seconds - 8) // 2}}.items():
            places[name] = folder / name
            write_tracks(places[name] / "cam.txt", boxes, people=people)
    path = next(videos.iterdir())
    index = index_frames(path)
    assert index is not None, "a video that can only be read from the beginning shows little"
    result: dict[str, Any] = {"video_bytes": path.stat().st_size}
    for name, place in places.items():
        result[name] = measure_sharding(folder, videos, place, settings)
        result[name]["ways"] = measure_choices(path, wanted_frames(folder), index)
    result["decoder"] = measure_decoder(path, sum(1 for _ in iter_pictures(path)))
    result["encoders"] = measure_encoders(example(folder))
    result["workers"] = measure_workers(folder, videos, next(iter(places.values())), settings)
    return result


def wanted_frames(folder: Path) -> np.ndarray:
    """The frames that the dataset's crops were cut from."""
    from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
    from taudl_dist.dataset.schema import SPLITS

    dataset = open_dataset(folder / "dataset")
    reader, rows = TrackletReader(dataset), read_manifest(dataset, splits=SPLITS).to_pylist()
    samples = (reader.read_sample(row["shard"], row["offset"], row["length"]) for row in rows)
    return np.unique(np.concatenate([sample.frames for sample in samples]))


def example(folder: Path) -> np.ndarray:
    """A crop of the dataset of typical height."""
    import io

    from PIL import Image

    from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest

    dataset = open_dataset(folder / "dataset")
    row = read_manifest(dataset, splits=("train",)).to_pylist()[0]
    jpeg = TrackletReader(dataset).read(row["shard"], row["offset"], row["length"])[0]
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    cases = [name for name in ("busy", "quiet", "own") if name in result]
    lines = ["| one worker, per CPU second | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]

    ones = [result[name] for name in cases]

    def row(title: str, form: str, values: Iterable[float]) -> None:
        lines.append(f"| {title} | " + " | ".join(format(value, form) for value in values) + " |")

    row("frames of video, decoding them all and no more", ",.0f", (one["decoding_alone_frames_per_s"] for one in ones))
    row("frames of video, sharding", ",.0f", (one["covered_per_s"] for one in ones))
    row("ratio", ".2f", (one["covered_per_s"] / one["decoding_alone_frames_per_s"] for one in ones))
    row("frames decoded, sharding", ",.0f", (one["frames_per_s"] for one in ones))
    row("ratio", ".2f", (one["frames_per_s"] / one["decoding_alone_frames_per_s"] for one in ones))
    row("crops", ",.0f", (one["crops_per_s"] for one in ones))
    row("MB written", ".2f", (one["mb_per_s"] for one in ones))
    row("share of frames decoded", ".2f", (one["frames"] / one["frames_read_through"] for one in ones))
    for stage in result[cases[0]]["stages"]:
        row(f"time: {stage}", ".1%", (one["stages"].get(stage, 0.0) for one in ones))
    for way in ("by a route", "reading through", "reading through, whole frames as RGB"):
        row(f"CPU seconds to get the frames: {way}", ".2f", (one["ways"][way] for one in ones))
    lines += ["", "| decoder | frames per CPU second | per second |", "|---|---|---|"]
    lines += [f"| {name} | {one['per_cpu_s']:,.0f} | {one['per_s']:,.0f} |" for name, one in result["decoder"].items()]
    lines += ["", "| encoder | us | bytes |", "|---|---|---|"]
    lines += [f"| {name} | {one['us']:.0f} | {one['bytes']:,} |" for name, one in result["encoders"].items()]
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["workers"].items())
    return "\n".join([*lines, "", f"Two cameras: {times} (2 workers: with the start of Ray)"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="length of the rendered video")
    parser.add_argument("--video", type=Path, help="a video of your own instead, with --tracks")
    parser.add_argument("--tracks", type=Path, help="its tracks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taudl-shard-") as place:
        result = measure(Path(place), args.seconds, args.video, args.tracks)
    print(json.dumps(result) if args.json else report(result))


if __name__ == "__main__":
    main()
