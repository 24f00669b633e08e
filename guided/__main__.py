"""`python -m guided` is `guided`."""

import sys

from guided.cli import main

if __name__ == "__main__":
    sys.exit(main())
