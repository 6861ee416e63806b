"""What SSTT does to labels, against ground truth: identity duplication and purity of all tracks, temporal, temporal + spatial.

    python -m benchmarks.sstt [--tud FOLDER] [--world FOLDER] [--json]

--tud: TUD-Campus of MOTChallenge 2015 with gt.txt and a tracker's tracker_result.txt (71 frames at 25 fps). --world: a corpus of
`taudl synth`; without it one of 4 cameras, 120 people and 340 s is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from data_tools.sampling_quality import Quality, judge_sampling
from data_tools.synthetic.settings import FPS
from data_tools.tracks import read_tracks


def judge_tud(folder: Path, *, min_distance: float) -> dict[str, Quality]:
    """The sequence is no longer than one transit, so P = 1 s, which is too short for a real camera; people are 90 pixels wide."""
    tracks, truth = (
        read_tracks(folder / name, camera="TUD-Campus", fps=25.0) for name in ("tracker_result.txt", "gt.txt")
    )
    return judge_sampling(tracks, truth, interval_s=1.0, min_distance=min_distance)


def judge_world(folder: Path) -> dict[str, Quality]:
    """All of the time, training and test."""
    cameras = sorted((folder / "tracks").glob("*.txt"))
    tracks, truth = (
        pa.concat_tables(read_tracks(folder / name / file.name, fps=float(FPS), format="mot") for file in cameras)
        for name in ("tracks", "truth")
    )
    return judge_sampling(tracks, truth, interval_s="auto", min_distance=40.0)


def render(corpora: dict[str, dict[str, Quality]]) -> str:
    """A table, a line per corpus and choice."""
    lines = [
        "| corpus | tracklets of | tracklets | false | identities | duplication | purity |",
        "|---|---|---|---|---|---|---|",
    ]
    for corpus, choices in corpora.items():
        for name, found in choices.items():
            lines.append(
                f"| {corpus} | {name} | {found.tracklets} | {found.false} | {found.identities} | {found.duplication:.1%} |"
                f" {found.purity:.1%} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tud", type=Path)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    corpora = {}
    if args.tud:
        corpora = {f"TUD-Campus, {pixels} pixels": judge_tud(args.tud, min_distance=pixels) for pixels in (60, 120)}
    with tempfile.TemporaryDirectory(prefix="sstt-") as name:
        world = args.world or Path(name) / "world"
        if not args.world:
            size = ["--seed", "7", "--cameras", "4", "--people", "120", "--seconds", "340"]
            subprocess.run([sys.executable, "-m", "taudl_dist.cli", "synth", "--out", str(world), *size], check=True)
        corpora["synthetic"] = judge_world(world)
    if args.json:
        print(
            json.dumps({name: {k: dataclasses.asdict(v) for k, v in found.items()} for name, found in corpora.items()})
        )
    else:
        print(render(corpora))
    return 0


if __name__ == "__main__":
    sys.exit(main())
