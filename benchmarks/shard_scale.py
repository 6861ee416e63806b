"""Sharding a corpus of 10^5 units and 10^7 tracklets, without its pixels: plan, resume scan, finalize, each in a process of its own.

The plan is cut from crops as SSTT leaves them (benchmarks/sstt.py measures what comes before) and written; then every unit is given an
empty tar, a commit record and its fragment of the manifest, which is not measured.

    python -m benchmarks.shard_scale [--cameras 1000] [--units 100] [--tracklets 100] [--crops 4] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.commits import FRAGMENTS_DIR, OK
from data_tools.corpus import read_state, units_to_do
from data_tools.corpus_plan import PLAN_FILE, Policy, write_plan
from data_tools.crop_tables import CropTables
from data_tools.finalize import finalize
from data_tools.folder import LocalFolder
from data_tools.plan import Plan
from data_tools.recordings import Recording
from data_tools.shard_writer import FRAGMENT_SCHEMA, tracklet_key
from data_tools.sources import ShardSettings
from data_tools.unit_cut import CROPS_SCHEMA, cut_units, with_routes
from data_tools.video import VideoInfo
from taudl_dist.dataset.schema import SHARDS_DIR

STAGES = ("plan", "scan of nothing", "work", "scan of all", "finalize")
_FPS = 10.0


def crops_of(camera: str, tracklets: int, crops: int) -> pa.Table:
    """CROPS_SCHEMA of a camera whose tracklets follow each other."""
    keys = pa.array([tracklet_key(camera, f"train/{track}") for track in range(tracklets)])
    number = np.repeat(np.arange(tracklets), crops)
    frame = np.arange(tracklets * crops, dtype=np.int64)
    columns = {
        "key": keys.take(pa.array(number)),
        "splits": pa.array(["train"]).take(pa.array(np.zeros(len(number), np.int64))),
        "label": pa.array(number),
        "person_id": pa.nulls(len(number), pa.int64()),
        "track": pa.array(number),
        "frame": pa.array(frame),
        "time_s": pa.array(frame / _FPS),
        **{name: pa.array(np.full(len(number), 9, np.int32)) for name in ("x1", "y1", "x2", "y2")},
        "recording": pa.array(np.zeros(len(number), np.int32)),
    }
    return with_routes(pa.table({name: columns[name] for name in CROPS_SCHEMA.names}, schema=CROPS_SCHEMA), None)


def plan(folder: LocalFolder, args: argparse.Namespace) -> None:
    """Cuts the units of all cameras and writes the plan."""
    tracklets = args.units * args.tracklets
    settings = ShardSettings(crops_per_shard=args.tracklets * args.crops)
    video = VideoInfo(path="", fps=_FPS, num_frames=10**9, width=9, height=9, duration_s=1.0)
    units, tables = [], CropTables()
    cameras = [f"cam{number:05d}" for number in range(args.cameras)]
    for camera in cameras:
        recording = Recording(camera=camera, name=camera, source=Path(f"{camera}.mp4"), video=video, start_s=None)
        crops = crops_of(camera, tracklets, args.crops)
        for unit in cut_units(camera, [crops], [recording], settings=settings, taken={}):
            units.append(unit.describe(hashlib.sha256()))
            tables.add(unit.name, unit.crops)
    content = {"cameras": [{"name": name} for name in cameras], "units": units, "failed": {}}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_plan(folder, Plan(content={**content, "digest": digest}, crops=tables), lambda: None)


def scan(folder: LocalFolder, _: argparse.Namespace) -> None:
    """What a second start does before it works."""
    content = json.loads(folder.read(PLAN_FILE))
    todo = units_to_do(read_state(folder, content), content, Policy())
    assert len(todo) in (0, len(content["units"]))


def work(folder: LocalFolder, args: argparse.Namespace) -> None:
    """What the workers would leave, with tars of no bytes."""
    folder.prepare((SHARDS_DIR, FRAGMENTS_DIR))
    for number, unit in enumerate(json.loads(folder.read(PLAN_FILE))["units"]):
        first = number % args.units * args.tracklets
        keys = sorted(tracklet_key(unit["camera"], f"train/{first + k}") for k in range(args.tracklets))
        size = np.full(len(keys), 4096)
        columns = {
            "camera": [unit["camera"]] * len(keys), "label": np.arange(first, first + len(keys)), "split": ["train"] * len(keys),
            "key": keys, "offset": np.cumsum(size), "length": size, "num_frames": np.full(len(keys), args.crops, np.int32),
            "start_s": np.zeros(len(keys)), "end_s": np.ones(len(keys)), "person_id": pa.nulls(len(keys), pa.int64()),
        }  # fmt: skip
        pq.write_table(
            pa.table(columns, schema=FRAGMENT_SCHEMA), folder.path / FRAGMENTS_DIR / f"{unit['name']}.parquet"
        )
        shard = {"name": f"{unit['name']}.tar", "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
        record = {"plan": unit["digest"], "shard": shard, "tracklets": len(keys), "rows": len(keys), "failed": {}}
        (folder.path / SHARDS_DIR / f"{unit['name']}.tar").touch()
        (folder.path / SHARDS_DIR / f"{unit['name']}{OK}").write_text(json.dumps(record, indent=1))


def merge(folder: LocalFolder, _: argparse.Namespace) -> None:
    """Finalize, with its own scan."""
    content = json.loads(folder.read(PLAN_FILE))
    units = {unit["name"]: unit["digest"] for unit in content["units"]}
    finalize(folder, units=units, cameras=[one["name"] for one in content["cameras"]], about={})


def stage(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Runs one stage in this process: seconds and the process's peak of memory."""
    call = dict(zip(STAGES, (plan, scan, work, scan, merge)))[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    call(LocalFolder(Path(args.folder)), args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    return {**took, "peak_mb": peak / 1024, "imports_mb": before / 1024}


def main() -> int:
    """Runs all stages and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("cameras", 1000), ("units", 100), ("tracklets", 100), ("crops", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", default="")
    parser.add_argument("--stage", default="")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(stage(args.stage, args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="shard-scale-", dir=args.folder or None) as name:
        found = {}
        flags = [f"--{flag}={getattr(args, flag)}" for flag in ("cameras", "units", "tracklets", "crops")]
        for one in STAGES:
            words = [sys.executable, "-m", "benchmarks.shard_scale", "--stage", one, "--folder", f"{name}/data", *flags]
            found[one] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            if not args.json:
                print(
                    f"{one:16} {found[one]['seconds']:8.1f} s {found[one]['cpu_seconds']:8.1f} s of CPU {found[one]['peak_mb']:8.0f} MB",
                    flush=True,
                )
    if args.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
