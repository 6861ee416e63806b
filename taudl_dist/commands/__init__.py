"""One module per command of `taudl`: its flags as a dataclass, and a `main(argv)` that calls the library.

No torch, ray, mlflow, av or dali at import time: `--help` must answer in under 0.3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Args = TypeVar("Args")


def parse(kind: type[Args], argv: Sequence[str], *, command: str) -> Args:
    """The flags of a command line as an instance of the dataclass `kind`; leaves with exit code 2 on wrong usage."""
    import inspect

    import tyro

    return tyro.cli(kind, args=list(argv), prog=f"taudl {command}", description=inspect.getdoc(kind))
