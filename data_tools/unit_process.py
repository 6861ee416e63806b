"""Units one after the other in a process beside this one: a crash in a video decoder costs the unit, not the work.

The process ends with its parent, however that ends. Starting it takes about a second.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import BinaryIO

from data_tools.units import UnitResult, UnitTask, unit_steps

Step = tuple[UnitTask, UnitResult | Exception | None]

_TRIES = 2
_PR_SET_PDEATHSIG = 1


def run_beside(tasks: Sequence[UnitTask]) -> Generator[Step, None, None]:
    """Yields (task, None) once a crop and (task, result) at a unit's end; an Exception where the process died in each try."""
    process = None
    try:
        for task in tasks:
            for left in reversed(range(_TRIES)):
                process = process or _start()
                if (yield from _run(process, task)):
                    break
                code, process = process.wait(), None
                if not left:
                    yield task, RuntimeError(f"signal {-code}" if code < 0 else f"exit code {code}")
    finally:
        if process:
            process.kill()
            process.communicate()


def _run(process: subprocess.Popen[bytes], task: UnitTask) -> Generator[Step, None, bool]:
    """The steps of one unit; whether it came to an end."""
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):
        pickle.dump(task, process.stdin)
        process.stdin.flush()
    while True:
        try:
            step = pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError):
            return False
        if isinstance(step, UnitResult):
            yield task, step
            return True
        if isinstance(step, BaseException):  # a fault of ours
            raise step
        yield from [(task, None)] * step


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "data_tools.unit_process"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _serve(asked: BinaryIO, answered: BinaryIO) -> None:
    while True:
        try:
            task = pickle.load(asked)
        except EOFError:
            return
        try:
            for step in unit_steps(task):
                pickle.dump(step, answered)
                answered.flush()
        except Exception as error:  # raised again in the parent
            pickle.dump(error, answered)
            answered.flush()


def main() -> None:
    """What the process does: a task in, its steps out, until there are no more tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent decides
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answered = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    _serve(sys.stdin.buffer, answered)


if __name__ == "__main__":
    main()
