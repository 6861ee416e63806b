"""`ray job submit -- python jobs/evaluate.py ...`: the same flags as `taudl evaluate`."""

import sys

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
