"""`ray job submit -- python jobs/reproduce.py ...`: the same flags as `taudl reproduce`."""

import sys

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
