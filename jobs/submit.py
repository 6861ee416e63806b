"""`python jobs/submit.py JOB ...`: `taudl submit`, for a machine that has Ray and this checkout but not the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["submit", *sys.argv[1:]]))
