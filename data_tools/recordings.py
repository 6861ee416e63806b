"""Which video files make up each camera, and when each of them begins.

A camera is one file, `<camera>.mp4`, whose times count from its beginning. Or it is many files with gaps between them; then time
is real: seconds since 1970 (UTC), from a table of starts, from the files' names, or from the creation time inside the files.
"""

from __future__ import annotations

import bisect
import csv
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from data_tools.camera_name import camera_name
from data_tools.source_files import Source, list_files, shown
from data_tools.video import VIDEO_SUFFIXES, VideoInfo
from taudl_dist.dataset.location import is_remote
from taudl_dist.errors import UsageError, UserError

OVERLAP_S = 1.0
"""File names tell whole seconds, and a recorder's files may overlap by a few frames; more is a wrong clock."""

_DIRECTIVES = {"Y": r"\d{4}", "y": r"\d\d", "m": r"\d\d", "d": r"\d\d", "j": r"\d{3}", "H": r"\d\d", "M": r"\d\d", "S": r"\d\d",
               "f": r"\d{1,6}", "z": r"[+-]\d\d:?\d\d|Z", "b": r"[A-Za-z]{3}"}  # fmt: skip
_TOKEN = re.compile(r"\{camera\}|\*|%.?|.", re.DOTALL)


Files = dict[PurePosixPath, Source]
"""Files by their path below the folder of videos."""


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A file of a camera. `name` is its path below the folder of videos without the ending, which also names its tracks.

    start_s: seconds since 1970; None where only the file itself can tell. is_alone: it is all there is of its camera, without a clock.
    """

    camera: str
    name: str
    source: Source
    start_s: float | None = None
    is_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A probed file of a camera; `start_s` is None in the layout of one file per camera, whose times count from 0."""

    camera: str
    name: str
    source: Source
    video: VideoInfo
    start_s: float | None

    @property
    def file(self) -> str:
        """The path below the folder of videos."""
        return self.name + PurePosixPath(str(self.source)).suffix

    @property
    def begin_s(self) -> float:
        """Time of its first frame."""
        return self.start_s or 0.0

    @property
    def stamp(self) -> str:
        """Its start as letters."""
        return stamp(self.begin_s)


def find_video_files(folder: str | Path, *, starts: str = "", start_pattern: str = "") -> list[VideoFile]:
    """The video files of a folder, or of one in an object store, by camera and name.

    Args:
        starts: a CSV file with the columns camera, file (below the folder), start (ISO 8601, UTC unless it says otherwise, or
            seconds since 1970).
        start_pattern: how file names below the folder, without ending, tell camera and start: `{camera}`, the directives of
            strftime, and `*` for anything, as in `{camera}/%Y-%m-%d/%H%M%S_*`.

    With neither, `<camera>.mp4` is a camera, and so is a folder `<camera>/` of videos that carry their creation time.

    Raises:
        UserError: no video, two for one name, files that table or pattern do not fit.
    """
    if starts and start_pattern:
        raise UsageError("found --starts and --start-pattern; expected one of them to tell when the files begin")
    if starts and is_remote(starts):
        raise UsageError(f"--starts {starts}: expected a file on this machine; copy the table here")
    files, folder = list_files(folder), shown(folder)
    if starts:
        found = _from_table(folder, files, Path(starts))
    elif start_pattern:
        found = _from_names(_videos(folder, files), start_pattern)
    else:
        found = _from_folders(folder, files)
    names = Counter(file.name for file in found)
    for name, count in names.items():
        if count > 1:
            raise UserError(f"{folder}: {count} videos are called {name}, with different endings; keep one")
    return sorted(found, key=lambda file: (file.camera, file.name))


def _from_folders(folder: str | Path, files: Files) -> list[VideoFile]:
    found, alone = [], {}
    for path, source in sorted(_videos(folder, files).items(), key=lambda item: len(item[0].parts) > 1):
        name, camera = _name(path), path.parts[0]
        if len(path.parts) == 1:
            alone[name] = path
            found.append(VideoFile(camera=name, name=name, source=source, is_alone=True))
        elif camera in alone:
            raise UserError(f"{folder}: both {alone[camera]} and the folder {camera}/ are camera {camera!r}; keep one")
        elif not camera.startswith("."):
            found.append(VideoFile(camera=camera, name=name, source=source))
    return found


def _from_names(videos: Files, pattern: str) -> list[VideoFile]:
    expression, format = _compile(pattern)
    found = []
    for path, source in videos.items():
        match = expression.fullmatch(_name(path))
        if not match:
            raise UserError(
                f"{source}: its name {_name(path)!r} does not fit --start-pattern {pattern!r}; change the pattern, or move"
                " the file out of the folder"
            )
        pieces = match.groupdict()
        try:
            start = datetime.strptime(" ".join(pieces[f"t{i}"] for i in range(len(pieces) - 1)), format)
        except ValueError as error:
            raise UserError(
                f"{source}: its name tells no time by --start-pattern {pattern!r} ({error}); rename it"
            ) from None
        found.append(VideoFile(camera=pieces["camera"], name=_name(path), source=source, start_s=_seconds(start)))
    return found


def _compile(pattern: str) -> tuple[re.Pattern[str], str]:
    """The expression of a pattern, with groups `camera`, `t0`, `t1`, ..., and the strptime format of the joined groups t."""
    expression = ""
    format: list[str] = []
    for token in _TOKEN.findall(pattern):
        if token == "{camera}":
            expression += "(?P<camera>[^/]+?)"
        elif token == "*":
            expression += "[^/]*"
        elif token[0] == "%":
            if token[1:] not in _DIRECTIVES:
                raise UsageError(
                    f"--start-pattern {pattern!r}: {token!r} is unknown; expected %{', %'.join(_DIRECTIVES)} (as in strftime)"
                )
            expression += f"(?P<t{len(format)}>{_DIRECTIVES[token[1:]]})"
            format.append(token)
        else:
            expression += re.escape(token)
    if pattern.count("{camera}") != 1 or not format:
        raise UsageError(f"--start-pattern {pattern!r}: expected {{camera}} once, and a time such as %Y%m%d_%H%M%S")
    return re.compile(expression), " ".join(format)


def _from_table(folder: str | Path, files: Files, table: Path) -> list[VideoFile]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--starts {table}: not readable as CSV ({error})") from None
    if not rows or not {"camera", "file", "start"} <= set(rows[0]):
        raise UserError(
            f"--starts {table}: found columns {list(rows[0]) if rows else []}; expected camera, file, start"
        )
    found = {}
    for number, row in enumerate(rows, start=2):
        where = f"--starts {table}, line {number}"
        path = PurePosixPath(row["file"] or "")
        if path not in files or not row["camera"]:
            raise UserError(f"{where}: camera {row['camera']!r}, file {row['file']!r}: expected a file below {folder}")
        if path in found:
            raise UserError(f"{where}: {row['file']} stands in it twice; keep one line")
        start_s = parse_time(row["start"] or "", where)
        found[path] = VideoFile(camera=row["camera"], name=_name(path), source=files[path], start_s=start_s)
    forgotten = [source for path, source in _videos(folder, files).items() if path not in found]
    if forgotten:
        raise UserError(f"{forgotten[0]}: has no line in --starts {table}; add its start, or move it out of the folder")
    return list(found.values())


def parse_time(text: str, where: str) -> float:
    """Seconds since 1970 of a time in ISO 8601 (UTC unless it says otherwise), or of a number of seconds as it stands."""
    try:
        start_s = float(text)
    except ValueError:
        try:
            start_s = _seconds(datetime.fromisoformat(text.strip()))
        except ValueError:
            start_s = math.nan
    if not math.isfinite(start_s):
        raise UserError(
            f"{where}: time {text!r}; expected a time like 2026-01-31T08:00:00+01:00, or seconds since 1970"
        )
    return start_s


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def stamp(start_s: float) -> str:
    """A time as letters for names, UTC: 20260131T080000Z, with milliseconds where there are any."""
    milliseconds = round(start_s * 1000)
    text = datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y%m%dT%H%M%S")
    return f"{text}{f'-{milliseconds % 1000:03d}' if milliseconds % 1000 else ''}Z"


Interval = tuple[float, float, str]
"""When a file begins and ends, and its name for messages."""


def find_overlaps(recordings: list[Recording], settled: dict[str, list[Interval]]) -> dict[str, str]:
    """Recordings (by name) that share more than OVERLAP_S with another of their camera, and why they cannot be used.

    Of two that overlap the one that begins later, or stands later in the list, is refused; never one of `settled`, by camera.
    """
    taken = {camera: sorted(intervals) for camera, intervals in settled.items()}
    problems = {}
    for recording in sorted(recordings, key=lambda one: one.begin_s):  # stable
        mine = (recording.begin_s, recording.begin_s + recording.video.duration_s, recording.file)
        others = taken.setdefault(recording.camera, [])
        at = bisect.bisect(others, mine)
        rival = next((one for one in others[max(at - 1, 0) : at + 1] if _overlap_s(one, mine) > OVERLAP_S), None)
        if rival is None:
            others.insert(at, mine)
            continue
        problems[recording.name] = (
            f"{recording.video.path}: lasts from {stamp(mine[0])} to {stamp(mine[1])}, but {rival[2]} of the same camera from"
            f" {stamp(rival[0])} to {stamp(rival[1])}: a clock went backwards, or a file is there twice; correct its start with"
            " --starts, or remove one"
        )
    return problems


def _overlap_s(one: Interval, other: Interval) -> float:
    return min(one[1], other[1]) - max(one[0], other[0])


def _videos(folder: str | Path, files: Files) -> Files:
    """Those of the files that are videos.

    Raises:
        UserError: there are none.
    """
    found = {
        path: file for path, file in files.items() if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."
    }
    if not found:
        expected = f"expected files like <camera>.mp4 ({', '.join(VIDEO_SUFFIXES)})"
        raise UserError(
            f"{folder}: {'no video in it or below' if files else 'no such folder, or an empty one'}; {expected}"
        )
    return found


def _name(path: PurePosixPath) -> str:
    for part in path.parents[:-1]:
        camera_name(Path(part))  # refuses letters that no table can hold
    camera_name(Path(path))
    return path.with_suffix("").as_posix()
