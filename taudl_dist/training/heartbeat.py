"""What every process of a run is doing, for whoever looks from outside: a small file each, written anew every few seconds by a thread.

    workers/driver.json               whoever started the run, and how it ended
            <attempt>-00003.json      a worker: step, what it does and since when, where its code stands, memory

The loop only notes what it begins (0.2 us); where the code stands is read off its stack by the thread. So a worker that hangs still
tells where, and one whose process is stopped or whose machine is gone falls silent. When nobody gets further, the one that is not in
a collective is the one the others wait for: `find_stuck` names it, and a worker that still runs says so in the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from taudl_dist.progress import clean

INTERVAL_S = 2.0
"""Seconds between two beats; with more than 100 workers longer, so that shared storage sees 50 small files a second at most."""
SILENT_S = 20.0
"""Seconds without a beat after which a process counts as stopped or gone."""
PATIENCE_S = (60.0, 300.0)
"""A worker is stuck after five times its longest occupation so far, within these bounds; below the time-out of a collective."""
DRIVER = "driver.json"
_MAX_BYTES = 64 * 1024
_ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One worker as it was `age_s` ago."""

    rank: int
    size: int
    host: str
    pid: int
    attempt: str
    step: int
    """Steps it has done."""
    doing: str
    for_s: float
    """How long it had been at that when it said so, by its own monotonic clock: machines disagree about the time of day, and change it."""
    where: str
    """The innermost line of this project that its loop stands in."""
    collective: str
    """What it waits for others in; `backward` where that cannot be told apart from computing; or empty."""
    interval_s: float
    patience_s: float
    """Seconds of one occupation that are nothing unusual."""
    rss_bytes: int
    gpu_bytes: int
    age_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """How long it has been at what it does."""
        return self.for_s + self.age_s

    @property
    def is_silent(self) -> bool:
        """Whether it should have been heard of."""
        return self.age_s > SILENT_S + 3 * self.interval_s

    @property
    def has_ended(self) -> bool:
        return self.doing == _ENDED

    @property
    def name(self) -> str:
        """For messages."""
        return f"worker {self.rank} (pid {self.pid} on {self.host})"

    def describe(self) -> str:
        """What it does, in words."""
        where = f", in {self.collective}" if self.collective else ""
        return f"{self.doing}, {self.step} steps done{where}" + (f", at {self.where}" if self.where else "")

    def fault(self) -> str:
        """Why the others wait for it, in words."""
        if self.has_ended:
            return f"has ended after {self.step} steps"
        if self.is_silent:
            return f"is silent for {self.age_s:.0f} s (stopped, or its machine is gone); last seen: {self.describe()}"
        return f"hangs: {self.describe()}"


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """Workers that do not get further."""

    for_s: float
    culprits: list[Beat]
    """Those the others wait for; empty if they cannot be told apart."""
    waiting: list[Beat]

    def __str__(self) -> str:
        lead = f"no progress for {self.for_s:.0f} s"
        if not self.culprits:
            return f"{lead}, and no worker stands out: " + "; ".join(
                f"{b.name} {b.describe()}" for b in self.waiting[:8]
            )
        named = "; ".join(f"{beat.name} {beat.fault()}" for beat in self.culprits[:8])
        more = f"; and {len(self.culprits) - 8} more" if len(self.culprits) > 8 else ""
        places = sorted({beat.collective or beat.doing for beat in self.waiting})
        rest = (
            f"; {len(self.waiting)} other{'s' * (len(self.waiting) > 1)} wait in {', '.join(places)}" if places else ""
        )
        return f"{lead}: {named}{more}{rest}"


def find_stuck(beats: Sequence[Beat]) -> Stuck | None:
    """Who holds up the others, or None where all is well; `beats`: of all workers of one attempt."""
    at_work = [beat for beat in beats if not beat.has_ended]
    silent = [beat for beat in at_work if beat.is_silent]
    heard = [beat for beat in at_work if not beat.is_silent]
    if not heard:
        return None  # the whole run is gone, which is another thing than stuck
    for_s = min(beat.busy_s for beat in heard)
    if for_s < (SILENT_S if silent else min(beat.patience_s for beat in heard)):
        return None
    ranked: list[list[Beat]] = [
        silent,
        [beat for beat in beats if beat.has_ended],
        [beat for beat in heard if not beat.collective],
        [beat for beat in heard if beat.collective == "backward"],
        [beat for beat in heard if beat.collective not in ("", "backward")],
    ]
    culprits = next(filter(None, ranked))
    waiting = [beat for beat in at_work if beat not in culprits]
    if not waiting and len(culprits) > 1:
        return Stuck(for_s=for_s, culprits=[], waiting=culprits)
    return Stuck(for_s=for_s, culprits=culprits, waiting=waiting)


class Heartbeat:
    """The beats of one worker, and the watch over the others. A context manager: enter it in the thread that trains.

    Args:
        folder: the run's `workers` folder.
        attempt: name of this start of the run.
        report: takes the line that names a stuck worker.
        gpu_bytes: reads the memory held on the GPU.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: str,
        rank: int,
        size: int,
        report: Callable[[str], None],
        gpu_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._folder, self._report, self._gpu_bytes = folder, report, gpu_bytes
        self._who = {"rank": rank, "size": size, "attempt": attempt, "host": socket.gethostname(), "pid": os.getpid()}
        self._interval_s = max(INTERVAL_S, size / 50)
        self._doing = ("starting", 0, time.monotonic())
        self._longest_s = 0.0
        self._said = ""
        self._stop = threading.Event()
        self._loop_thread = 0
        self._pulse: threading.Thread | None = None
        self.memory_bytes, self.gpu_bytes = _rss_bytes(), 0

    def now(self, doing: str, step: int) -> None:
        """Notes what the loop begins; `step`: steps done."""
        before, stamp = self._doing, time.monotonic()
        self._doing = (doing, step, stamp)
        if before[1]:  # the first step also starts everything up
            self._longest_s = max(self._longest_s, stamp - before[2])

    def __enter__(self) -> Heartbeat:
        self._loop_thread = threading.get_ident()
        self._folder.mkdir(exist_ok=True)
        if self._who["rank"] == 0:
            for old in self._folder.glob("*-?????.json"):
                if not old.name.startswith(str(self._who["attempt"])):
                    old.unlink(missing_ok=True)
        self._pulse = threading.Thread(target=self._run, name="taudl-heartbeat", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._doing = (_ENDED, self._doing[1], time.monotonic())
        self._stop.set()
        assert self._pulse
        self._pulse.join(5)  # a dead network disk must not hang the exit

    def _run(self) -> None:
        path = self._folder / f"{self._who['attempt']}-{self._who['rank']:05d}.json"
        while True:
            is_last = self._stop.is_set()
            try:
                _write(path, self._content())
                if not is_last:
                    self._watch()
            except OSError as error:
                self._say(f"warning: {path.parent} cannot be written or read ({error}); `taudl status` is out of date")
            if is_last:
                return
            self._stop.wait(self._interval_s)

    def _content(self) -> dict[str, Any]:
        doing, step, since = self._doing
        self.memory_bytes, self.gpu_bytes = _rss_bytes(), self._gpu_bytes()
        where, collective = ("", "") if doing == _ENDED else _place(sys._current_frames().get(self._loop_thread))
        longest, (least, most) = self._longest_s, PATIENCE_S
        return {
            **self._who,
            "step": step,
            "doing": doing,
            "for_s": time.monotonic() - since,
            "where": where,
            "collective": collective,
            "interval_s": self._interval_s,
            "patience_s": min(max(least, 5 * longest), most) if longest else most,
            "rss_bytes": self.memory_bytes,
            "gpu_bytes": self.gpu_bytes,
        }

    def _watch(self) -> None:
        """Says once who holds up the others, if this worker is the first of those that still can."""
        if time.monotonic() - self._doing[2] < SILENT_S:
            if self._said:
                self._tell("going on after all")
            self._said = ""
            return
        beats = read_beats(self._folder, attempt=str(self._who["attempt"]))
        heard = [beat.rank for beat in beats if not beat.is_silent]
        stuck = find_stuck(beats) if heard and self._who["rank"] == min(heard) else None
        if stuck:
            key = str([beat.rank for beat in stuck.culprits])
            self._say(str(stuck), key=key)

    def _say(self, line: str, *, key: str | None = None) -> None:
        if (key or line) != self._said:
            self._said = key or line
            self._tell(line)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(
            OSError
        ):  # a full disk holds no line either, and a worker that no longer beats seems dead
            self._report(line)


@contextlib.contextmanager
def driving(folder: Path) -> Iterator[None]:
    """The beats of whoever started the run, and at the end how it ended.

    Args:
        folder: the run's `workers` folder.
    """
    from taudl_dist.training import Interrupted

    who = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time(), "interval_s": INTERVAL_S}
    stop = threading.Event()

    def write(**end: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong; who looks sees an old beat
            folder.mkdir(exist_ok=True)
            _write(folder / DRIVER, {**who, **end})

    def run() -> None:
        while not stop.is_set():
            write()
            stop.wait(INTERVAL_S)

    pulse = threading.Thread(target=run, name="taudl-driver", daemon=True)
    pulse.start()
    state, why = "failed", ""
    try:
        yield
        state = "finished"
    except (Interrupted, KeyboardInterrupt) as stopped:
        state, why = "interrupted", str(stopped)
        raise
    except BaseException as error:
        why = clean(f"{type(error).__name__}: {error}")
        raise
    finally:
        stop.set()
        pulse.join(5)
        write(state=state, why=why[:2000])


def read_beats(folder: Path, *, attempt: str) -> list[Beat]:
    """The workers of one attempt, by rank; files that are not what a worker wrote are left out."""
    beats = []
    for path in folder.glob(f"{attempt}-?????.json"):
        content = read_beat(path)
        with contextlib.suppress(TypeError):
            beats.append(Beat(**content))
    return sorted(beats, key=lambda beat: beat.rank)


def read_beat(path: Path) -> dict[str, Any]:
    """One file, with its age; empty where there is none, or it is not what was written."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
            age_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
    except (OSError, ValueError, RecursionError):
        return {}
    return {**content, "age_s": age_s} if isinstance(content, dict) and _is_typed(content) else {}


_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "str": str}
_TYPES = {field.name: _KINDS[str(field.type)] for field in fields(Beat)}


def _is_typed(content: Mapping[str, Any]) -> bool:
    """Numbers that are not finite, or have a thousand digits, cannot be reckoned with."""
    return all(
        isinstance(value, _TYPES.get(name, object)) and (not isinstance(value, int | float) or abs(value) < 2**63)
        for name, value in content.items()
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Complete or not at all; no fsync, for what is lost with the machine is two seconds old."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def _rss_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_TORCH_DISTRIBUTED = f"{os.sep}torch{os.sep}distributed{os.sep}"
_OWN_COLLECTIVES = ("total", "everyone", "first", "gather", "exchange")


def _place(frame: FrameType | None) -> tuple[str, str]:
    """Where a thread's code stands: the innermost line of this package, and the collective it is in, or empty."""
    where, collective, in_backward = "", "", False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            where = f"{Path(code.co_filename).relative_to(Path(_PACKAGE).parent)}:{frame.f_lineno}"
            # on a GPU a collective returns at once, and who needs its result waits in our code
            collective = collective or (code.co_name if code.co_name in _OWN_COLLECTIVES else "")
            break
        if _TORCH_DISTRIBUTED in code.co_filename and code.co_name != "wrapper":
            collective = code.co_name  # the outermost is what our code called
        in_backward |= code.co_name == "_engine_run_backward"
        frame = frame.f_back
    return where, collective or ("backward" if in_backward else "")
