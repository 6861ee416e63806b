"""Video files through PyAV: what is in them, their frames in order, and writing them.

A frame's index is its position in presentation order, from 0: what every tracker counts. Frames are reached by counting, or faster by a
route of time stamps and key frames, which gives the same frames. Damage is an error that names the frame, never a silent end.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.atomic import whole_file
from data_tools.camera_name import camera_name
from data_tools.picture import Picture
from data_tools.source_files import Source, opened
from taudl_dist.errors import UserError

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".avi",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".wmv",
    ".flv",
    ".gif",
)
"""File name endings taken for video when a folder is searched."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video file's first video stream; `fps` is the average rate where frames are not evenly spaced."""

    path: str
    fps: float
    num_frames: int
    width: int
    height: int
    duration_s: float
    created_s: float | None = None
    """When recording began, in seconds since 1970, if the file says so."""


def find_videos(folder: str | Path) -> dict[str, Path]:
    """The videos of a folder by stem, which is the camera's name, in name order.

    Raises:
        UserError: no such folder, no video in it, or two videos of one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder with one video per camera, <camera>.mp4")
    videos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            camera = camera_name(path)
            if camera in videos:
                raise UserError(f"{folder}: {videos[camera].name} and {path.name} are both camera {camera!r}; keep one")
            videos[camera] = path
    if not videos:
        raise UserError(f"{folder}: no video in it; expected files like <camera>.mp4 ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def probe(path: str | Source) -> VideoInfo:
    """What a video holds. Packets are counted where the container does not store the number of frames.

    Raises:
        UserError: the file is missing, empty, damaged, or has no video stream.
    """
    with _opened(path) as (container, stream):
        num_frames, rate = stream.frames, stream.average_rate
        fps = float(rate or 0)
        if not num_frames or not fps:
            num_frames, span_s = _count(path, container, stream)
            fps = num_frames / span_s if span_s else fps or 25.0
        if not num_frames:
            raise UserError(f"{path}: its video stream has no frames; copy or record the file again")
        size = (stream.codec_context.width, stream.codec_context.height)
        created_s = _created(container.metadata) or _created(stream.metadata)
    return VideoInfo(
        path=str(path),
        fps=fps,
        num_frames=num_frames,
        width=size[0],
        height=size[1],
        duration_s=num_frames / fps,
        created_s=created_s,
    )


def _created(metadata: dict[str, str]) -> float | None:
    """The creation time in a file's tags; a recorder without a clock writes the beginning of 1904 or 1970."""
    try:
        created = datetime.fromisoformat(metadata.get("creation_time", ""))
    except ValueError:
        return None
    created_s = (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp()
    return created_s if created_s > 0 else None


def _count(path: str | Source, container: Any, stream: Any) -> tuple[int, float]:
    """Number of packets, and the seconds from the first one's beginning to the last one's end."""
    count = length = 0
    begin, end = math.inf, -math.inf
    try:
        for packet in container.demux(stream):
            if packet.size:
                count, length = count + 1, length + (packet.duration or 0)
            if packet.size and packet.pts is not None:
                begin, end = min(begin, packet.pts), max(end, packet.pts + (packet.duration or 0))
    except _ffmpeg_error() as error:
        raise _damaged(path, 0, error) from None
    span_s = (end - begin if end > begin else length) * float(stream.time_base)
    announced_s = (container.duration or 0) / 1e6
    if span_s and announced_s > 1.1 * span_s + 1:
        raise UserError(
            f"{path}: cut off: its header announces {announced_s:.1f} s, but the file ends after {span_s:.1f} s;"
            " copy it again, or rewrite it with `ffmpeg -i in -c copy out.mkv`"
        )
    return count, span_s


_MIN_SKIPPED = 8
"""Frames that a jump must save; it costs a few, for the decoder begins with an empty pipeline."""
_HIDDEN_FRAMES = ("vp8",)
"""Codecs with packets that show nothing."""
_SKIPPING = ("h264", "mpeg4", "mpeg2video", "mpeg1video")
"""Codecs whose decoder can leave out a frame that no other needs; that of hevc leaves out frames that higher temporal layers need."""
_WAITING = ("h264", "hevc")
"""Codecs whose decoder, after a jump, shows nothing until it can show what it should."""
_TRIED = 32
"""Packets decoded to see whether frames are what their packets say."""
_FEW_HOLES = 0.05
"""Share of the steps of time below which long ones are packets that were lost: a decoder may then show fewer frames than there are packets,
and only counting tells which. Where there are more, the rate varies."""
_NO_STAMP = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """The frames of a file as its packets tell, (N,) each, ascending: when they are shown and when decoded (int64, in the stream's time
    base), and which are key frames (bool)."""

    stamps: np.ndarray
    decoding_stamps: np.ndarray
    is_key: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Route:
    """The way to n wanted frames, ascending, (n,) int64 each: the time stamp of each; index and time stamp of the key frame before it,
    and the time that its decoding begins, which is what files are searched by."""

    stamps: np.ndarray
    keys: np.ndarray
    key_stamps: np.ndarray
    seek_stamps: np.ndarray

    def first(self, count: int) -> Route:
        """The way to the first frames of them."""
        return Route(**{name: values[:count] for name, values in vars(self).items()})


def index_frames(path: str | Source) -> FrameIndex | None:
    """One pass over a file's packets, of which the first few are decoded. None: it can only be read from the beginning, because it has
    no usable time stamps, a clock that goes back or has holes, other packets than its header announces, or packets that are not one frame
    each, or because it begins in the middle of a group.

    Raises:
        UserError: damaged or cut off.
    """
    with _opened(path) as (container, stream):
        stamps, decoding_stamps, is_key = array("q"), array("q"), bytearray()
        shown: list[int | None] = []
        num_hidden = 0
        try:
            for number, packet in enumerate(container.demux(stream)):
                if packet.is_corrupt:
                    raise _damaged(path, len(stamps), "a packet is cut off")
                if packet.size and packet.is_discard:  # hidden by an edit list
                    num_hidden += 1
                elif packet.size:
                    stamps.append(_NO_STAMP if packet.pts is None else packet.pts)
                    decoding_stamps.append(_NO_STAMP if packet.dts is None else packet.dts)
                    is_key.append(packet.is_keyframe)
                if packet.size and number < _TRIED:
                    shown += [frame.pts for frame in packet.decode()]
        except _ffmpeg_error() as error:
            raise _damaged(path, len(stamps), error) from None
        num_packets, announced = len(stamps) + num_hidden, stream.frames
        if num_packets < 0.98 * announced:
            raise _damaged(path, len(stamps), f"its header announces {announced} frames")
        has_hidden = stream.codec_context.name in _HIDDEN_FRAMES
    if has_hidden or announced not in (0, num_packets):
        return None
    return _index(np.array(stamps, np.int64), np.array(decoding_stamps, np.int64), np.array(is_key, bool), shown)


def _index(
    stamps: np.ndarray, decoding_stamps: np.ndarray, is_key: np.ndarray, shown: list[int | None]
) -> FrameIndex | None:
    """The index of packets (N,) in the order of the file, if what was `shown` of the first ones agrees with it."""
    is_known = decoding_stamps != _NO_STAMP
    steps = np.diff(decoding_stamps[is_known])
    holes = (steps > 1.5 * np.median(steps)).mean() if len(steps) else 0.0
    order = np.argsort(stamps)
    index = FrameIndex(
        stamps=stamps[order],
        decoding_stamps=np.where(is_known, decoding_stamps, stamps)[order],
        is_key=is_key[order],
    )
    is_usable = (
        len(stamps)
        and index.stamps[0] != _NO_STAMP
        and (np.diff(index.stamps) > 0).all()
        and (steps >= 0).all()
        and not 0 < holes < _FEW_HOLES
        and index.is_key[0]
        and shown == index.stamps[: len(shown)].tolist()
    )
    return index if is_usable else None


def find_route(index: FrameIndex, wanted: np.ndarray) -> Route:
    """The way to frames (n,), ascending, that the file has."""
    keys = np.flatnonzero(index.is_key)
    before = keys[np.searchsorted(keys, wanted, side="right") - 1]
    return Route(
        stamps=index.stamps[wanted],
        keys=before,
        key_stamps=index.stamps[before],
        seek_stamps=index.decoding_stamps[before],
    )


def iter_frames(path: str | Source, *, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, rgb uint8 (H, W, 3)) of the wanted frames, or of all, in order; see `iter_pictures`."""
    for index, picture in iter_pictures(path, wanted=wanted):
        yield index, picture.rgb


def iter_pictures(
    path: str | Source, *, wanted: np.ndarray | None = None, route: Route | None = None
) -> Iterator[tuple[int, Picture]]:
    """Yields (index, frame) of the wanted frames, or of all, in order: the same ones with a route or without.

    Args:
        wanted: ascending frame indices; decoding stops after the last one.
        route: the way to them. What lies between a wanted frame and the last key frame before the next one is not decoded, nor are
            frames that no other needs. Where other frames come than should, the rest is read from the beginning. What a decoder
            makes up for packets that were lost may look different by another way, but is the same by the same way.

    Raises:
        UserError: missing or damaged file, or a stream that ends before the last wanted frame.
    """
    num_done = 0
    if wanted is not None and route is not None:
        with _opened(path) as (container, stream):
            for run in decoding_runs(wanted, route.keys):
                for index, frame in _guided(container, stream, wanted, route, run):
                    yield index, Picture(frame)
                    num_done += 1
                if num_done < run.stop:
                    break
    if wanted is None or num_done < len(wanted):
        for index, frame in _from_the_beginning(path, None if wanted is None else wanted[num_done:]):
            yield index, Picture(frame)


def decoding_runs(wanted: np.ndarray, keys: np.ndarray) -> list[slice]:
    """Parts of the wanted frames (n,), with the key frames (n,) before them, that are decoded in one go from the first one's key frame."""
    if not len(wanted):
        return []
    heads = 1 + np.flatnonzero(keys[1:] - wanted[:-1] > _MIN_SKIPPED)
    edges = [0, *heads.tolist(), len(wanted)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def num_decoded(wanted: np.ndarray, route: Route | None) -> int:
    """Frames that `iter_pictures` passes through the decoder to reach ascending frames (n,)."""
    if route is None:
        return int(wanted[-1]) + 1 if len(wanted) else 0
    return sum(int(wanted[run][-1]) + 1 - int(route.keys[run][0]) for run in decoding_runs(wanted, route.keys))


def _guided(container: Any, stream: Any, wanted: np.ndarray, route: Route, run: slice) -> Iterator[tuple[int, Any]]:
    """(index, frame) of a run of wanted frames, found by their time stamps; ends early where other frames come than should."""
    stamps, indices = route.stamps[run].tolist(), wanted[run].tolist()
    key_stamp, needed, is_first = int(route.key_stamps[run][0]), set(stamps), True
    context, at = stream.codec_context, 0
    has_key = context.name in _WAITING  # what a container calls a key frame may be none
    try:
        if route.keys[run][0] > 0:
            container.seek(int(route.seek_stamps[run][0]), stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                return
            if context.name in _SKIPPING:
                context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in needed else "NONREF"
            for frame in packet.decode():
                has_key = has_key or frame.key_frame
                if frame.pts is not None and frame.pts < key_stamp:
                    continue  # the seek may land on an earlier key frame
                if (
                    frame.pts is None
                    or frame.is_corrupt
                    or frame.pts > stamps[at]
                    or (is_first and not (has_key and frame.pts == key_stamp))
                ):
                    return
                is_first = False
                if frame.pts == stamps[at]:
                    yield indices[at], frame
                    at += 1
                    if at == len(stamps):
                        return
    except _ffmpeg_error():
        return


def _from_the_beginning(path: str | Source, wanted: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """(index, frame), counted: the truth of which frame is which."""
    queue = None if wanted is None else iter(wanted.tolist())
    target = None if queue is None else next(queue, -1)
    if target == -1:
        return
    index, num_hidden = -1, 0
    with _opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _damaged(path, index + 1, "a packet is cut off")
                num_hidden += packet.is_discard
                for frame in packet.decode():
                    index += 1
                    if target is None or index == target:
                        yield index, frame
                        if queue is not None and (target := next(queue, None)) is None:
                            return
        except _ffmpeg_error() as error:
            raise _damaged(path, index + 1, error) from None
        expected = stream.frames - num_hidden if wanted is None else int(wanted[-1]) + 1
    if index + 1 < expected:
        raise UserError(
            f"{path}: the video ends after frame {index}, but {expected} frames were expected: it is cut off, or the"
            " tracks belong to another file; copy it again or give the matching tracks"
        )


@contextmanager
def _opened(path: str | Source) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; one decoding thread, because parallel work is by camera and window."""
    import av

    av.logging.set_level(av.logging.PANIC)
    with opened(Path(path) if isinstance(path, str) else path) as file, _container(path, file) as container:
        if not container.streams.video:
            raise UserError(f"{path}: no video stream in it; expected a video file")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _container(path: str | Source, file: Any) -> Any:
    import av

    try:
        return av.open(file)
    except av.FFmpegError as error:
        reason = f"{error.strerror or error}".lower()
        raise UserError(
            f"{path}: cannot be opened as video ({reason}): it is damaged, cut off, or no video; copy it again, or"
            " repair it with `ffmpeg -i in -c copy out.mp4`"
        ) from None


def _ffmpeg_error() -> type[Exception]:
    import av

    return av.FFmpegError


def _damaged(path: str | Source, index: int, reason: object) -> UserError:
    reason = getattr(reason, "strerror", None) or reason
    return UserError(
        f"{path}: damaged or cut off at frame {index} ({str(reason).lower()}); copy it again, or cut it before that"
        f" frame with `ffmpeg -i in -frames:v {index} out.mp4` and drop the later rows of its tracks"
    )


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames, uint8 (H, W, 3) RGB with even H and W, as an .mp4; the same frames give the same bytes.

    h264 where this FFmpeg can write it, else mpeg4; a key frame every two seconds.
    """
    import av

    path = Path(path)
    assert path.suffix == ".mp4", path
    codec, options = _codec()
    with (
        whole_file(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=_fraction(fps), options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.gop_size = max(1, round(2 * fps))
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        assert stream is not None, "a video needs a frame"
        container.mux(stream.encode(None))


def _codec() -> tuple[str, dict[str, str]]:
    import av

    if "libx264" in av.codecs_available:
        # macroblock trees make the same frames give other bytes, even in one process
        return "libx264", {"preset": "veryfast", "crf": "23", "threads": "1", "x264-params": "mbtree=0"}
    return "mpeg4", {"qscale": "4", "flags": "+qscale+bitexact", "threads": "1"}


def _fraction(fps: float) -> Any:
    from fractions import Fraction

    return Fraction(fps).limit_denominator(1001)
