"""`ray job submit -- python jobs/embed.py ...`: the same flags as `taudl embed`."""

import sys

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
