"""`python -m edgetuner` is the command `edgetuner`; the training child is started this way."""

import sys

from edgetuner.cli import main

if __name__ == "__main__":
    sys.exit(main())
