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


def probe(path: str | Path) -> VideoInfo:
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


def _count(path: str | Path, container: Any, stream: Any) -> tuple[int, float]:
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


def key_frames(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Index and time stamp of each key frame, (K,) int64 each, ascending, from one pass without decoding.

    Streams without usable time stamps, or that begin in the middle of a group, have none: read them from the beginning.

    Raises:
        UserError: damaged or cut off.
    """
    with _opened(path) as (container, stream):
        packets: list[tuple[int | None, bool]] = []
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _damaged(path, len(packets), "a packet is cut off")
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts, packet.is_keyframe))
        except _ffmpeg_error() as error:
            raise _damaged(path, len(packets), error) from None
        if len(packets) < 0.98 * stream.frames:  # an edit list may hide a few
            raise _damaged(path, len(packets), f"its header announces {stream.frames} frames")
    stamps = sorted(pts for pts, _ in packets if pts is not None)
    keys = sorted(pts for pts, is_key in packets if is_key and pts is not None)
    if len(stamps) < len(packets) or len(set(stamps)) < len(stamps) or keys[:1] != stamps[:1]:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.searchsorted(np.array(stamps, np.int64), np.array(keys, np.int64)), np.array(keys, np.int64)


def iter_frames(
    path: str | Path, *, wanted: np.ndarray | None = None, start: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, rgb uint8 (H, W, 3)) of the wanted frames, or of all, in order.

    Args:
        wanted: ascending frame indices; decoding stops after the last one.
        start: (index, time stamp) of a key frame at or before the first wanted one, as `key_frames` gives them.

    Raises:
        UserError: missing or damaged file, or a stream that ends before the last wanted frame.
    """
    if wanted is not None and not len(wanted):
        return
    queue = None if wanted is None else iter(wanted.tolist())
    target = None if queue is None else next(queue)
    index = -1
    with _opened(path) as (container, stream):
        for index, frame in _decode(path, container, stream, start):
            if target is None or index == target:
                yield index, frame.to_ndarray(format="rgb24")
                if queue is not None and (target := next(queue, None)) is None:
                    return
        expected = stream.frames if wanted is None else int(wanted[-1]) + 1
    if index + 1 < expected:
        raise UserError(
            f"{path}: the video ends after frame {index}, but {expected} frames were expected: it is cut off, or the"
            " tracks belong to another file; copy it again or give the matching tracks"
        )


def _decode(path: str | Path, container: Any, stream: Any, start: tuple[int, int] | None) -> Iterator[tuple[int, Any]]:
    """(index, decoded frame) from the beginning or from a key frame."""
    index, first_pts = start or (0, None)
    try:
        if first_pts is not None:
            container.seek(first_pts, stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _damaged(path, index, "a packet is cut off")
            for frame in packet.decode():
                if first_pts is not None and frame.pts is not None and frame.pts < first_pts:
                    continue  # the seek may land on an earlier key frame
                yield index, frame
                index += 1
    except _ffmpeg_error() as error:
        raise _damaged(path, index, error) from None


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; one decoding thread, because parallel work is by camera and window."""
    import av

    av.logging.set_level(av.logging.PANIC)
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such video file")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; copy or record it again")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        reason = f"{error.strerror or error}".lower()
        raise UserError(
            f"{path}: cannot be opened as video ({reason}): it is damaged, cut off, or no video; copy it again, or"
            " repair it with `ffmpeg -i in -c copy out.mp4`"
        ) from None
    with container:
        if not container.streams.video:
            raise UserError(f"{path}: no video stream in it; expected a video file")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _ffmpeg_error() -> type[Exception]:
    import av

    return av.FFmpegError


def _damaged(path: str | Path, index: int, reason: object) -> UserError:
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
