"""`ray job submit -- python jobs/train.py ...`: the same flags as `taudl train`."""

import sys

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
