"""`taudl COMMAND ...`: finds the command, runs it, and turns what went wrong into one message and an exit code.

0: done. 1: failed (bad data, a full disk). 2: wrong usage. 130: interrupted. TAUDL_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from taudl_dist.errors import UsageError, UserError
from taudl_dist.progress import clean

COMMANDS = {
    "demo": "the whole way on synthetic video, in a few minutes on a CPU",
    "synth": "generate a synthetic multi-camera corpus: videos, tracks, truth",
    "track": "detect and track people in videos",
    "shard": "videos and tracks -> a dataset of tracklets",
    "import": "a re-id benchmark -> a dataset of tracklets",
    "validate": "re-read and verify every file of a dataset",
    "status": "where a run is: step, state, last checkpoint, what each worker does",
    "info": "what a dataset holds",
    "drop": "remove cameras, times or tracklets from a dataset for good",
    "preview": "contact sheets of a dataset's tracklets, as HTML",
    "plan": "what a training run will touch: batches, bytes, memory",
    "train": "train a re-identification model on a dataset",
    "submit": "run shard, train, evaluate, ... on a Ray cluster and follow it",
    "evaluate": "CMC, mAP and mINP of a model on a dataset's query and gallery",
    "embed": "tracklet features of a dataset as Parquet",
    "search": "the tracklets most like a given one, or like an image",
    "export": "a model as one ONNX or torch.export file, its numbers checked",
    "reproduce": "the paper's Tables 2-6: rows run, beside the published numbers",
    "compare": "training runs side by side: settings, data, numbers, curves",
    "sync": "bring to MLflow what it missed of a run",
}
"""Name of each command (a module of taudl_dist.commands) and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        from taudl_dist import __version__

        print(f"taudl {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `taudl {close[0]}`?" if close else "`taudl --help` lists the commands"
        print(f"taudl: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2

    def command() -> int | None:
        module = importlib.import_module(f"taudl_dist.commands.{'import_' if name == 'import' else name}")
        return module.main(argv[1:])

    return run_guarded(command, name)


def run_guarded(command: Callable[[], int | None], name: str) -> int:
    """Calls `command` and maps what it raises to a message on stderr and an exit code."""
    interrupts: list[int] = []

    def interrupt(number: int, _frame: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    try:
        return command() or 0
    except SystemExit as stop:  # tyro leaves this way: 0 after --help, 2 on wrong usage
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print(f"taudl {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `taudl info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError, UnicodeEncodeError) as error:  # the last: a path that is not UTF-8
        if os.environ.get("TAUDL_DEBUG"):
            raise
        print(f"taudl {name}: error: {clean(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Exception:
        if not interrupts:
            raise
        print(f"taudl {name}: interrupted", file=sys.stderr)  # some libraries turn Ctrl-C into an error of their own
        return 130


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: taudl COMMAND [flags]",
            "",
            "Unlabelled multi-camera video in, a person re-identification model out.",
            "",
            *lines,
            "",
            "`taudl COMMAND --help` lists a command's flags; `taudl demo` is the place to start.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
