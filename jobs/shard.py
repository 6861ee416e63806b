"""`ray job submit -- python jobs/shard.py ...`: the same flags as `taudl shard`."""

import sys

from taudl_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["shard", *sys.argv[1:]]))
