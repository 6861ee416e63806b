"""`taudl synth`: a synthetic multi-camera corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_tools.synthetic.settings import TrackerNoise
from taudl_dist.commands import parse
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SynthArgs:
    """Generates video of people walking past several cameras, a tracker's output for it, and the truth.

    The same flags give the same bytes. Training people walk in the first half of the time, test people in the second.
    Example: taudl synth --out world --seed 7 --cameras 4 --people 120 --seconds 240
    """

    out: str
    """Folder to write: videos/, tracks/ and truth/."""
    seed: int = 0
    """Decides the people, the cameras, the ways and the tracker's mistakes."""
    cameras: int = 4
    """Cameras, each with a place, colours and a viewing side of its own."""
    people: int = 120
    """People altogether; half of them are for testing."""
    seconds: float = 240.0
    """Length of each camera's video."""
    noise: TrackerNoise = field(default_factory=TrackerNoise)
    """How the tracker's output differs from the truth."""
    workers: int = 0
    """Rendering processes; 0: one per core. The result does not depend on it."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> None:
    """Makes the corpus and prints what it holds."""
    args = parse(SynthArgs, argv, command="synth")
    if args.workers < 0:
        raise UsageError(f"--workers {args.workers}: expected 0 (one per core) or more")
    from data_tools.synthetic.corpus import make_corpus
    from data_tools.synthetic.settings import WorldSettings

    settings = WorldSettings(
        seed=args.seed, num_cameras=args.cameras, num_people=args.people, seconds=args.seconds, noise=args.noise
    )
    result = make_corpus(args.out, settings, workers=args.workers or os.cpu_count() or 1)
    if args.json:
        print(json.dumps(result))
        return
    for camera in result["cameras"]:
        print(
            f"{camera['name']:6} {camera['frames']:7} frames {camera['crossings']:6} crossings {camera['tracks']:6} tracks"
        )
    print(f"corpus {args.out}  ({args.people} people, {result['seconds']:g} s)")
