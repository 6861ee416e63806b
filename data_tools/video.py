"""Video files through PyAV: what is in them, their frames in order, and writing them.

A frame's index is its position in presentation order, from 0: what every tracker counts. Decoding is sequential; reading
from the middle starts at a key frame found by `key_frames`. Damage is an error that names the frame, never a silent end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
    """Number of packets and the seconds they last."""
    try:
        lengths = [packet.duration or 0 for packet in container.demux(stream) if packet.size]
    except _ffmpeg_error() as error:
        raise _damaged(path, 0, error) from None
    span_s = float(sum(lengths) * stream.time_base)
    announced_s = (container.duration or 0) / 1e6
    if span_s and announced_s > 1.1 * span_s + 1:
        raise UserError(
            f"{path}: cut off: its header announces {announced_s:.1f} s, but the file ends after {span_s:.1f} s;"
            " copy it again, or rewrite it with `ffmpeg -i in -c copy out.mkv`"
        )
    return len(lengths), span_s


KeyFrames = tuple[np.ndarray, np.ndarray]
"""Index and time stamp of key frames, (K,) int64 each, ascending."""
NO_KEYS: KeyFrames = (np.zeros(0, np.int64), np.zeros(0, np.int64))

_MIN_SKIPPED = 8
"""Frames that a jump must save; it costs a few, for the decoder begins with an empty pipeline."""
_HIDDEN_FRAMES = ("vp8",)
"""Codecs with packets that show nothing."""


def key_frames(path: str | Source) -> KeyFrames:
    """The key frames of a video, from one pass without decoding.

    Streams without usable time stamps, or that begin in the middle of a group, have none, nor those where a packet may not be a frame:
    read them from the beginning.

    Raises:
        UserError: damaged or cut off.
    """
    with _opened(path) as (container, stream):
        is_countable, first = stream.codec_context.name not in _HIDDEN_FRAMES, None
        packets: list[tuple[int | None, bool]] = []
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _damaged(path, len(packets), "a packet is cut off")
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_keyframe))
                    first = first or next(iter(packet.decode()), None)
        except _ffmpeg_error() as error:
            raise _damaged(path, len(packets), error) from None
        if len(packets) < 0.98 * stream.frames:  # an edit list may hide a few
            raise _damaged(path, len(packets), f"its header announces {stream.frames} frames")
        if first and first.interlaced_frame and not stream.frames:  # two packets may be one frame, a field each
            is_countable = False
    stamps = sorted(pts for pts, _ in packets if pts is not None)
    keys = sorted(pts for pts, is_key in packets if is_key and pts is not None)
    if not is_countable or len(stamps) < len(packets) or len(set(stamps)) < len(stamps) or keys[:1] != stamps[:1]:
        return NO_KEYS
    return np.searchsorted(np.array(stamps, np.int64), np.array(keys, np.int64)), np.array(keys, np.int64)


def iter_frames(path: str | Source, *, wanted: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, rgb uint8 (H, W, 3)) of the wanted frames, or of all, in order; see `iter_pictures`."""
    for index, picture in iter_pictures(path, wanted=wanted):
        yield index, picture.rgb


def iter_pictures(
    path: str | Source, *, wanted: np.ndarray | None = None, keys: KeyFrames = NO_KEYS
) -> Iterator[tuple[int, Picture]]:
    """Yields (index, frame) of the wanted frames, or of all, in order: the same ones whatever key frames are given.

    Args:
        wanted: ascending frame indices; decoding stops after the last one.
        keys: what `key_frames` gives, or a part of it. What lies between a wanted frame and the last key frame before the next one is
            not decoded. Where a jump leads to other frames than it should, the rest is read from the beginning.

    Raises:
        UserError: missing or damaged file, or a stream that ends before the last wanted frame.
    """
    runs = [(None, None)] if wanted is None else decoding_runs(wanted, keys)
    if not runs:
        return
    num_done = 0
    with _opened(path) as (container, stream):
        try:
            for start, targets in runs:
                for index, frame in _chosen(
                    path, stream, _decode(path, container, stream, start, keys), start, targets
                ):
                    yield index, Picture(frame)
                    num_done += 1
            return
        except _OtherFrames:
            assert wanted is not None
    yield from iter_pictures(path, wanted=wanted[num_done:])


def decoding_runs(wanted: np.ndarray, keys: KeyFrames) -> list[tuple[tuple[int, int] | None, np.ndarray]]:
    """Ascending frames (n,) in runs that are decoded in one go, each with the key frame (index, time stamp) it begins at; None: the
    beginning of the file."""
    if not len(wanted):
        return []
    indices, stamps = keys
    at = np.searchsorted(indices, wanted, side="right") - 1
    nearest = np.append(indices, 0)[at]  # without a key frame before it, a frame is reached from frame 0
    heads = 1 + np.flatnonzero(nearest[1:] - wanted[:-1] > _MIN_SKIPPED)
    first = at[np.append(0, heads)].tolist()
    starts = [(int(indices[key]), int(stamps[key])) if key >= 0 and indices[key] > 0 else None for key in first]
    return list(zip(starts, np.split(wanted, heads)))


def num_decoded(wanted: np.ndarray, keys: KeyFrames) -> int:
    """Frames that `iter_pictures` decodes to reach ascending frames (n,)."""
    return sum(int(run[-1]) + 1 - (start[0] if start else 0) for start, run in decoding_runs(wanted, keys))


class _OtherFrames(Exception):
    """After a jump the decoder shows other frames than it would have without."""


def _chosen(
    path: str | Source,
    stream: Any,
    frames: Iterator[tuple[int, Any]],
    start: tuple[int, int] | None,
    targets: np.ndarray | None,
) -> Iterator[tuple[int, Any]]:
    """Those of (index, frame) that are wanted."""
    queue = None if targets is None else iter(targets.tolist())
    target = None if queue is None else next(queue)
    index = -1
    for index, frame in frames:
        if target is None or index == target:
            yield index, frame
            if queue is not None and (target := next(queue, None)) is None:
                return
    expected = stream.frames if targets is None else int(targets[-1]) + 1
    if start:
        raise _OtherFrames
    if index + 1 < expected:
        raise UserError(
            f"{path}: the video ends after frame {index}, but {expected} frames were expected: it is cut off, or the"
            " tracks belong to another file; copy it again or give the matching tracks"
        )


def _decode(
    path: str | Source, container: Any, stream: Any, start: tuple[int, int] | None, keys: KeyFrames
) -> Iterator[tuple[int, Any]]:
    """(index, decoded frame) from the beginning or from a key frame.

    Raises:
        _OtherFrames: a key frame does not come out at its place.
    """
    index, first_pts = start or (0, None)
    place = dict(zip(keys[1].tolist(), keys[0].tolist()))
    try:
        if first_pts is not None:
            container.seek(first_pts, stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _damaged(path, index, "a packet is cut off")
            for frame in packet.decode():
                if first_pts is not None and frame.pts is not None and frame.pts < first_pts:
                    continue  # the seek may land on an earlier key frame
                is_first = start is not None and index == start[0]
                if place.get(frame.pts, None if is_first else index) != index or (start and frame.is_corrupt):
                    raise _OtherFrames
                yield index, frame
                index += 1
    except _ffmpeg_error() as error:
        raise _damaged(path, index, error) from None


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
