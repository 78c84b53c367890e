"""`python -m maskwise`, which launchers such as torchrun need."""

import sys

from maskwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
