"""`hotswap train` as a module, which is what torchrun starts:

torchrun --nproc-per-node 2 --local-ranks-filter 0 -m -- hotswap.training DATA [options]

Without the `--` torchrun would take `--r` for a beginning of one of its own options.
"""

from __future__ import annotations

import sys

from hotswap.registry.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
